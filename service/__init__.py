"""How a checkpoint is used: decode, validate, batch, query, search, re-rank, encode."""
