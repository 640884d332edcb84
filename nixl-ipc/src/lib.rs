//! Same-host backend: shared memory and cross-memory attach.
