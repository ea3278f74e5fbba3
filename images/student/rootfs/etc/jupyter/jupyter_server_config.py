"""The student's Jupyter server. Read from /etc/jupyter; a student's own server configuration is not read."""

from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

from idl_hub.lab.kernels import KILLED_FIRST

c = get_config()  # noqa: F821 - traitlets provides it

# Databases and run-time files live on the container's disk: the home may be NFS, where SQLite corrupts.
# (JUPYTER_RUNTIME_DIR is set in the image, IPython's history in /etc/ipython.)
c.NotebookNotary.db_file = "/var/local/idl_hub/notebook_signatures.db"

# The trash would be in the home: what is deleted because the home is full would stay in it.
c.FileContentsManager.delete_to_trash = False
c.FileContentsManager.always_delete_dir = True


class CourseKernelFirst(KernelSpecManager):
    """Finds the course's kernel before those a student made, so that none takes the name "python3"."""

    def _kernel_dirs_default(self) -> list[str]:
        return [
            "/opt/idl_hub/venv/share/jupyter/kernels",
            str(Path.home() / ".local/share/jupyter/kernels"),
        ]


c.ServerApp.kernel_spec_manager_class = CourseKernelFirst

# Each extension costs time at every start (nbgrader's alone 0.2 s of 1.1 s). There is no language server
# in the image; formgrader and the course list are the lecturer's; a student's list of assignments and
# the validation have nothing to show without a course.
c.ServerApp.jpserver_extensions = {
    "idl_hub.lab": True,
    "jupyter_lsp": False,
    "nbgrader.server_extensions.assignment_list": False,
    "nbgrader.server_extensions.course_list": False,
    "nbgrader.server_extensions.formgrader": False,
    "nbgrader.server_extensions.validate_assignment": False,
}
c.LabApp.extension_manager = "readonly"  # a student can install none; "pypi" would ask the network

# When a session has used up its memory, the system ends kernels and what runs in terminals before the server.
c.AsyncMappingKernelManager.kernel_manager_class = "idl_hub.lab.kernels.Kernel"

# Not a login shell, which would set PATH anew and pass over ~/.bashrc.
c.ServerApp.terminado_settings = {"shell_command": [*KILLED_FIRST, "/bin/bash"]}

c.ResourceUseDisplay.track_cpu_percent = True
