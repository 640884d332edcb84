//! NIXL-style KV-cache transfer: the facade over core and backends.
