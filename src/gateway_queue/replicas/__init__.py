"""Several replicas on one Redis or Valkey: one leads, and all hold clients."""
