"""How a checkpoint comes to be: read, chunk, embed, window, loss, checkpoint, gate, report."""
