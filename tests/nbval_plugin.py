"""What nbval compares: everything but warnings and progress bars, which go to stderr."""


def pytest_collectstart(collector):
    if getattr(collector, "skip_compare", None) is not None:  # only nbval's notebooks have it
        collector.skip_compare += ("stderr",)
