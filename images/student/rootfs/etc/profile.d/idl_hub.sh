# shellcheck shell=sh
# Login shells (tmux starts them) get PATH set anew by /etc/profile.
PATH="/opt/idl_hub/venv/bin:$PATH:$HOME/.local/bin"
export PATH
