//! Metadata exchange between agents: TCP, file, etcd.
