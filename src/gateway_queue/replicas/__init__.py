"""Several replicas on one Redis or Valkey: one of them leads, all of them hold clients."""
