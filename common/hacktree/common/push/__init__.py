"""What a push's two sides say to one another: messages, frames and refusals. Pure."""
