"""Kernels and consoles of students."""

c = get_config()  # noqa: F821 - traitlets provides it

# SQLite does not live on NFS, where the home may be.
c.HistoryManager.hist_file = "/var/local/idl_hub/ipython_history.sqlite"
