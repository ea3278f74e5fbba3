"""Students' images: published to the course's registry, brought to every server, offered, removed when unused."""
