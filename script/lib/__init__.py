"""Set-up shared by script/server and script/test: standard library only, since it runs before any install."""
