"""How the widgets look, and the accessible names that ipywidgets leaves out."""

# ipywidgets writes a slider's label beside its handle but gives the handle itself no accessible name, and says nothing
# of what the parts that change are. The style element's load event is the moment the panel is on the page; the
# observer is there for sliders that arrive after it, and for another language, which changes labels and title.
NAME_THE_SLIDERS = """
const panel = this.closest('.ch-panel');
const name = () => {
  const title = panel.querySelector('.ch-title');
  if (!title) return;
  panel.lang = title.lang;
  panel.querySelectorAll('.widget-slider').forEach(row => {
    const label = row.querySelector('.widget-label').textContent;
    const handle = row.querySelector('[role=slider]');
    const field = row.querySelector('.widget-readout');
    if (handle) handle.setAttribute('aria-label', label);
    if (field) {
      field.setAttribute('role', 'textbox');
      field.setAttribute('aria-label', title.dataset.valueOf.replace('{name}', () => label));
    }
  });
  panel.querySelectorAll('.ch-live').forEach(part => part.setAttribute('aria-live', 'polite'));
};
name();
new MutationObserver(name).observe(panel, {childList: true, subtree: true});
"""

STYLE = """
.ch-panel {
  --ch-ink: var(--jp-ui-font-color1, #212121); --ch-soft: var(--jp-ui-font-color2, #616161);
  --ch-line: var(--jp-border-color2, #c0c0c0); --ch-paper: var(--jp-layout-color1, #ffffff);
  --ch-tint: var(--jp-layout-color2, #eeeeee); --ch-bar: #3a86c8; --ch-mono: var(--jp-code-font-family, monospace);
  color: var(--ch-ink); border: 1px solid var(--ch-line); border-radius: 6px; padding: 10px 14px 12px;
  max-width: 1080px; box-sizing: border-box; overflow: visible;
}
.ch-panel .widget-html-content { line-height: 1.5; flex: 1 1 0; min-width: 0; max-width: 100%; }
.ch-panel .ch-prompt-text .widget-html-content { flex: 0 1 auto; }
.ch-panel .widget-html { margin: 0; height: auto; overflow: visible; }
.ch-panel .widget-label, .ch-panel .widget-readout { color: var(--ch-ink); }
.ch-panel :focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 2px; }
.ch-panel .ch-part { font-weight: 600; padding-top: 8px; margin-top: 8px; border-top: 1px solid var(--ch-line); }
.ch-panel .ch-title { font-weight: 600; font-size: 15px; }
.ch-panel .ch-hint, .ch-panel .ch-legend { color: var(--ch-soft); margin: 2px 0; font-size: 12px; }
.ch-panel .ch-alert {
  border-left: 4px solid #d9822b; background: var(--ch-tint); padding: 6px 10px; margin: 4px 0; border-radius: 3px;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.ch-panel .ch-columns { display: flex; flex-flow: row wrap; gap: 8px 28px; align-items: flex-start; width: 100%; }
.ch-panel .ch-columns > .ch-controls { flex: 1 1 290px; min-width: 0; max-width: 420px; }
.ch-panel .ch-columns > .ch-picture { flex: 2 1 340px; min-width: 0; display: flex; flex-direction: column; }
.ch-panel .ch-controls, .ch-panel .ch-picture { overflow: visible; }
.ch-panel .ch-controls > .jupyter-button { align-self: flex-start; margin: 2px 0 2px 160px; }
.ch-panel .ch-wide { width: 100%; overflow: visible; }
.ch-panel .ch-wide > .ch-controls { display: grid; gap: 0 24px; width: 100%;
  grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); }
.ch-panel .ch-wide > .ch-controls > .jupyter-button { justify-self: start; }
.ch-panel .ch-row { display: flex; flex-flow: row wrap; gap: 4px 12px; align-items: center; overflow: visible; }
.ch-panel .ch-row { width: 100%; }
.ch-panel .ch-row > .widget-hslider { flex: 0 1 340px; min-width: 230px; max-width: 340px; }
.ch-panel code { font-family: var(--ch-mono); font-size: 13px; background: none; color: inherit; white-space: pre; }
.ch-panel table { border-collapse: collapse; }
.ch-panel .ch-bars { width: 100%; table-layout: fixed; font-variant-numeric: tabular-nums; }
.ch-panel .ch-bars tr { height: 26px; }
.ch-panel .ch-bars th, .ch-panel .ch-bars td { padding: 0 6px; font-weight: normal; text-align: right; line-height: 1.2;
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.ch-panel .ch-bars thead tr { height: 22px; }
.ch-panel .ch-bars thead th:nth-child(2) { text-align: left; white-space: normal; }
.ch-panel .ch-bars thead th { color: var(--ch-soft); font-size: 12px; }
.ch-panel .ch-bars th:nth-child(1) { width: 112px; }
.ch-panel .ch-bars th:nth-child(3), .ch-panel .ch-bars th:nth-child(4) { width: 60px; }
.ch-panel .ch-bars td:nth-child(4) { color: var(--ch-soft); }
.ch-panel .ch-track { position: relative; height: 18px; }
.ch-panel .ch-fill { position: absolute; inset: 3px auto 3px 0; background: var(--ch-bar); border-radius: 0 3px 3px 0;
  transition: width .12s; }
.ch-panel .ch-outline { position: absolute; inset: 0 auto 0 0; box-sizing: border-box; border: 1.5px solid #8a8a8a;
  border-radius: 0 3px 3px 0; }
.ch-panel .ch-cut th, .ch-panel .ch-cut td { color: var(--ch-soft); }
.ch-panel .ch-cut code { text-decoration: line-through; }
.ch-panel .ch-token { padding: 1px 3px; margin: 1px 1px; border-radius: 3px; white-space: pre-wrap;
  display: inline-block; font-family: var(--ch-mono); font-size: 13px; line-height: 1.35;
  box-shadow: inset 0 0 0 1px rgba(128, 128, 128, .35); }
.ch-panel .ch-flow { line-height: 1.75; overflow-wrap: anywhere; margin-bottom: 6px; }
.ch-panel .ch-query { font-family: var(--ch-mono); font-size: 13px; white-space: pre-wrap; padding-right: 3px; }
.ch-panel .ch-cards { display: grid; gap: 10px;
  grid-template-columns: repeat(auto-fill, minmax(min(240px, 100%), 1fr)); }
.ch-panel .ch-card { border: 1px solid var(--ch-line); border-radius: 5px; padding: 6px 10px; }
.ch-panel .ch-card-head { color: var(--ch-soft); font-size: 12px; }
.ch-panel .ch-written { display: flex; flex-flow: row wrap; align-items: center; gap: 2px; padding: 6px 0; }
.ch-panel .ch-written .jupyter-button { padding: 1px 4px; margin: 0; line-height: 1.5; font-family: var(--ch-mono);
  font-size: 13px; white-space: pre; border-radius: 3px; box-shadow: inset 0 0 0 1px rgba(128, 128, 128, .35); }
.ch-panel .ch-prompt-text { font-family: var(--ch-mono); font-size: 13px; white-space: pre-wrap; padding-right: 2px; }
.ch-panel sub, .ch-panel sup { font-size: 75%; line-height: 0; }
.ch-panel p { margin: 4px 0; }
.ch-panel a { text-decoration: underline !important; }  /* JupyterLab takes it away in rendered HTML */
.ch-panel .ch-formula { display: flex; flex-flow: row wrap; gap: 0 8px; font-variant-numeric: tabular-nums; }
.ch-panel .ch-choose { display: grid; max-width: 640px; overflow: visible; }
.ch-panel .ch-choose > * { grid-area: 1 / 1; }
.ch-panel .ch-choices { display: flex; flex-direction: column; padding-top: 22px; overflow: visible; }
.ch-panel .ch-choices .jupyter-button { width: 100%; height: 26px; margin: 0; padding: 0; border-radius: 3px;
  background: transparent; color: transparent; box-shadow: none; overflow: hidden; }
.ch-panel .ch-choices .jupyter-button:hover { background: rgba(58, 134, 200, .18); box-shadow: none; }
.ch-panel .ch-scroll { overflow-x: auto; max-width: 100%; }
.ch-panel .ch-stage-table { width: 100%; font-variant-numeric: tabular-nums; font-size: 13px; }
.ch-panel .ch-stage-table th, .ch-panel .ch-stage-table td { padding: 2px 8px; text-align: right; line-height: 1.25;
  font-weight: normal; border-bottom: 1px solid var(--ch-line); white-space: nowrap; min-width: 72px; height: 38px; }
.ch-panel .ch-stage-table thead th { color: var(--ch-soft); font-size: 12px; vertical-align: bottom;
  white-space: normal; }
.ch-panel .ch-stage-table thead b { color: var(--ch-ink); font-weight: 600; }
.ch-panel .ch-stage-table .ch-same { color: var(--ch-soft); }
.ch-panel .ch-stage-table .ch-changed { font-weight: 600; }
.ch-panel .ch-chosen { background: var(--ch-tint); box-shadow: inset 4px 0 0 #d9822b; }
.ch-panel .ch-gone { color: var(--ch-soft); }
.ch-panel .ch-mini { height: 4px; background: var(--ch-bar); border-radius: 2px; margin-top: 2px; }
.ch-panel .ch-same .ch-mini { opacity: .5; }
.ch-panel .ch-tree { display: block; }
.ch-panel .ch-tree path { fill: none; stroke: var(--ch-ink); stroke-width: 2.5; }
.ch-panel .ch-tree rect { fill: var(--ch-tint); stroke: var(--ch-ink); stroke-width: 1.5; }
.ch-panel .ch-tree text { fill: var(--ch-ink); text-anchor: middle; font-size: 12px; }
.ch-panel .ch-tree .ch-tree-token { font-family: var(--ch-mono); }
.ch-panel .ch-tree .ch-tree-score { font-size: 11px; }
.ch-panel .ch-tree path.ch-dead, .ch-panel .ch-tree .ch-dead rect { stroke: #808080; stroke-width: 1; fill: none;
  stroke-dasharray: 4 3; }
.ch-panel .ch-tree .ch-dead text { fill: var(--ch-soft); }
.ch-panel .ch-tree path.ch-best { stroke: #d9822b; stroke-width: 4.5; }
.ch-panel .ch-tree .ch-best rect { stroke: #d9822b; stroke-width: 3; }
.ch-panel .ch-tree .ch-root { fill: var(--ch-ink); }
@media (prefers-reduced-motion: reduce) { .ch-panel .ch-fill { transition: none; } }
"""
