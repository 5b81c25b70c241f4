"""What others wrote stays text, files and folders of others run nothing, and nothing leaves this machine."""
