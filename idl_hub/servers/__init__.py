"""What a GPU server is configured with: values in, text of configuration files out."""
