# For every interactive bash; a student's ~/.bashrc comes after it.
[ -z "${PS1-}" ] && return

shopt -s checkwinsize histappend
HISTCONTROL=ignoreboth
PS1='\[\e[32m\]${JUPYTERHUB_USER:-\u}\[\e[0m\] \[\e[34m\]\w\[\e[0m\] \$ '
alias ls='ls --color=auto' ll='ls -lh --color=auto' grep='grep --color=auto'
