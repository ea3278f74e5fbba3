"""The pages and the REST interface of `idl-hub web`, a JupyterHub service with a process of its own."""
