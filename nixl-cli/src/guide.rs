//! Figures of the disaggregated-inference communication guide, to read ours beside.

/// What the guide expects of the class that `path` belongs to.
pub(crate) fn figure(path: &str) -> &'static str {
    match path {
        "tcp" => "TCP fallback: 1-3 GB/s, +90-100 s TTFT measured (llama 8B)",
        "local" | "shm" | "cma" => {
            "no same-host CPU path in it; RDMA on one node: 10-50 GB/s, +200-800 ms"
        }
        p if p.starts_with("ucx") => "InfiniBand 20-50 GB/s, RoCE 10-25 GB/s: +200-800 ms TTFT",
        _ => "no figure for this class of path",
    }
}
