//! Figures of the disaggregated-communication guide, to read ours beside.

/// What the guide expects of the class that `path` belongs to; at most 64 columns.
pub(crate) fn figure(path: &str) -> &'static str {
    match path {
        "tcp" => "TCP fallback: 1-3 GB/s; +90-100 s TTFT, measured on AWS",
        "local" | "shm" | "cma" => "none for a node's CPU paths; RDMA: 10-50 GB/s, +200-800 ms",
        p if p.starts_with("ucx") => "InfiniBand 20-50 GB/s, RoCE 10-25 GB/s; +200-800 ms TTFT",
        _ => "no figure for this class of path",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_fit_beside_their_label() {
        for path in ["tcp", "shm", "ucx:rc", "other"] {
            assert!(super::figure(path).len() <= 64, "{path}");
        }
    }
}
