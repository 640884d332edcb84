//! What UCX really uses, read from what it prints about contexts and endpoints.
//!
//! The library has no call on 1.13 that names an endpoint's transports, and none on any version that
//! says which of them do the one-sided operations. Its description for people does.

use std::{ffi::c_void, ptr};

use nixl_core::PathClass;

use super::{Context, Endpoint, Entered};

/// One transport of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lane {
    transport: String,
    device: String,
    /// Does one-sided operations.
    rma: bool,
    /// Moves large messages.
    bulk: bool,
}

/// The transports of an endpoint, and which do the one-sided operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lanes(Vec<Lane>);

const RDMA: [&str; 5] = ["rc", "dc", "ud", "srd", "gga"];
const SAME_HOST: [&str; 3] = ["cma", "xpmem", "knem"];

/// The class of a transport's name, as far as one-sided operations go.
pub(crate) fn class_of(transport: &str) -> PathClass {
    let family = transport.split('_').next().unwrap_or(transport);
    if RDMA.contains(&family) {
        PathClass::Rdma
    } else if SAME_HOST.contains(&family) {
        PathClass::CrossMemory
    } else {
        PathClass::Tcp
    }
}

impl Lanes {
    /// Reads `ucp_ep_print_info`. Lines that do not look as expected are passed over.
    fn parse(text: &str) -> Self {
        let mut lanes = Vec::new();
        let mut native = Vec::new();
        let mut old = false;
        for line in text.lines().map(|l| l.trim_start_matches('#').trim()) {
            if let Some(rest) = line.strip_prefix("lane[") {
                lanes.extend(lane(rest));
            }
            old |= line.starts_with("rma_bw: mds");
            for op in ["put[", "get["] {
                let index = line.strip_prefix(op).and_then(|l| l.split(']').next());
                native.extend(index.and_then(|i| i.parse::<usize>().ok()));
            }
        }
        // The protocols before 1.16 name their lanes for one-sided operations and use no others;
        // what is marked as one for large transfers is for rendezvous.
        if old {
            for (i, lane) in lanes.iter_mut().enumerate() {
                lane.rma = native.contains(&i);
            }
        }
        Self(lanes)
    }

    /// What of this connection's class one-sided operations run over.
    pub(crate) fn class(&self) -> PathClass {
        let rma = self.0.iter().filter(|l| l.rma);
        let classes = rma.map(|lane| class_of(&lane.transport));
        // They may be spread over several lanes: the slowest one decides.
        classes.max().unwrap_or(PathClass::Tcp)
    }

    /// Whether UCX has to ask the peer for its queue pairs, which it does over datagrams.
    pub(crate) fn connect_by_datagrams(&self) -> bool {
        self.0
            .iter()
            .any(|lane| class_of(&lane.transport) == PathClass::Rdma)
    }

    /// What of this connection's class rendezvous runs over.
    pub(crate) fn class_of_bulk(&self) -> PathClass {
        let any = self.0.iter().any(|l| l.bulk);
        let used = self.0.iter().filter(|l| !any || l.bulk);
        let classes = used.map(|lane| class_of(&lane.transport));
        classes.max().unwrap_or(PathClass::Tcp)
    }

    /// The lanes that rendezvous uses, and the `scheme` that UCX was told to use.
    pub(crate) fn bulk_names(&self, scheme: &str) -> String {
        let any = self.0.iter().any(|l| l.bulk);
        let names = names(self.0.iter().filter(|l| !any || l.bulk));
        format!("ucx:{names},rndv={scheme}")
    }

    /// Whether one-sided operations are done by messages and the peer's processor.
    pub(crate) fn is_emulated(&self) -> bool {
        !self.0.iter().any(|l| l.rma)
    }
}

impl std::fmt::Display for Lanes {
    /// `ucx:cma`, `ucx:tcp`, `ucx:rc_verbs/rxe0:1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let emulated = self.is_emulated();
        let used = self.0.iter().filter(|l| emulated || l.rma);
        write!(f, "ucx:{}", names(used))
    }
}

/// Each lane's name once; `unknown` without any.
fn names<'a>(lanes: impl Iterator<Item = &'a Lane>) -> String {
    let name = |lane: &Lane| match class_of(&lane.transport) {
        PathClass::Rdma => format!("{}/{}", lane.transport, lane.device),
        _ => lane.transport.clone(),
    };
    let mut names: Vec<String> = lanes.map(name).collect();
    names.sort();
    names.dedup();
    match names.is_empty() {
        true => "unknown".to_owned(),
        false => names.join("+"),
    }
}

/// `0]:  2:cma/memory.0 md[1]   -> md[1]/cma/sysdev[255] rma_bw#0 am`
fn lane(rest: &str) -> Option<Lane> {
    let (_, rest) = rest.split_once("]:")?;
    let (_, rest) = rest.trim_start().split_once(':')?;
    let mut words = rest.split_whitespace();
    let (transport, device) = words.next()?.split_once('/')?;
    let (device, _path) = device.rsplit_once('.')?;
    let rma = words.any(|word| word.starts_with("rma_bw") && !word.ends_with(':'));
    Some(Lane {
        transport: transport.to_owned(),
        device: device.to_owned(),
        rma,
        bulk: rma,
    })
}

/// Transports with their devices, read from `ucp_context_print_info`.
fn parse_resources(text: &str) -> Vec<(String, String)> {
    let resources = text.lines().filter_map(|line| {
        let line = line.trim_start_matches('#').trim();
        let (_, last) = line.strip_prefix("resource ")?.rsplit_once(' ')?;
        let (transport, device) = last.split_once('/')?;
        Some((transport.to_owned(), device.to_owned()))
    });
    resources.collect()
}

/// What `print` writes to the stream that it is given.
fn printed(print: impl FnOnce(*mut libc::FILE)) -> String {
    let (mut text, mut len) = (ptr::null_mut(), 0);
    // SAFETY: INV-5, both out-pointers live until the stream is closed below.
    let stream = unsafe { libc::open_memstream(&mut text, &mut len) };
    if stream.is_null() {
        return String::new();
    }
    print(stream);
    // SAFETY: INV-5, opened above, closed once; it sets `text` and `len`.
    unsafe { libc::fclose(stream) };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: INV-5, the stream wrote `len` bytes there.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>().cast_const(), len) };
    let owned = String::from_utf8_lossy(bytes).into_owned();
    // SAFETY: INV-5, the stream's buffer is ours to free once it is closed.
    unsafe { libc::free(text.cast::<c_void>()) };
    owned
}

impl Context {
    /// The transports with their devices that this context may use.
    pub(crate) fn resources(&self) -> Vec<(String, String)> {
        // SAFETY: INV-5, the context lives and the stream is open.
        let print =
            |stream| unsafe { (self.api().fns().ucp_context_print_info)(self.raw(), stream) };
        parse_resources(&printed(print))
    }

    /// Whether one of them is of `class`.
    pub(crate) fn has(&self, class: PathClass) -> bool {
        let all = self.resources();
        all.iter()
            .any(|(transport, _)| class_of(transport) == class)
    }
}

impl Entered<'_> {
    /// The lanes of an endpoint of this worker, as they are now.
    pub(crate) fn lanes(&self, endpoint: &Endpoint) -> Lanes {
        // SAFETY: INV-5, the endpoint lives, its worker is ours, the stream is open.
        let print =
            |stream| unsafe { (self.api().fns().ucp_ep_print_info)(endpoint.raw(), stream) };
        Lanes::parse(&printed(print))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CMA: &str = "\
# UCP endpoint \n#\n#               peer: <no debug data>
#                 lane[0]:  0:tcp/lo.0 md[0]                -> md[0]/tcp/sysdev[255] am am_bw#0 wireup
#                 lane[1]:  2:cma/memory.0 md[1]            -> md[1]/cma/sysdev[255] rma_bw#0";
    const RC: &str = "\
#                 lane[0]:  5:rc_verbs/rxe0:1.0 md[2]       -> addr[1].md[2]/ib/sysdev[0] rma_bw#0 am
#                 lane[1]:  3:ud_verbs/rxe0:1.0 md[2]       -> md[2]/ib/sysdev[0] keepalive wireup
#                  put[0]: 0..<short>..62..<bcopy>..8192..<zcopy>..(inf)
#                  get[0]: 0..<bcopy>..(inf)
#                  rma_bw: mds [2] rndv_rkey_size 9";

    #[test]
    fn lanes_of_one_sided_operations_are_told_from_others() {
        let cma = Lanes::parse(CMA);
        assert_eq!(
            (cma.class(), cma.is_emulated()),
            (PathClass::CrossMemory, false)
        );
        assert_eq!(cma.to_string(), "ucx:cma");
        let rc = Lanes::parse(RC);
        assert_eq!(rc.class(), PathClass::Rdma);
        assert_eq!(rc.to_string(), "ucx:rc_verbs/rxe0:1");
        assert_eq!(rc.class_of_bulk(), PathClass::Rdma);
        assert_eq!(rc.bulk_names("auto"), "ucx:rc_verbs/rxe0:1,rndv=auto");
    }

    #[test]
    fn what_only_carries_messages_is_emulated() {
        let tcp =
            "lane[0]:  1:tcp/lo.0 md[0]  -> md[0]/tcp/sysdev[255] seg 4294967295 am keepalive";
        let tcp = Lanes::parse(tcp);
        assert!(tcp.is_emulated());
        assert_eq!(tcp.class_of_bulk(), PathClass::Tcp);
        assert_eq!(tcp.bulk_names("put_zcopy"), "ucx:tcp,rndv=put_zcopy");
        assert_eq!(
            (tcp.class(), tcp.to_string()),
            (PathClass::Tcp, "ucx:tcp".to_owned())
        );
        let shm = "lane[0]:  3:sysv/memory.0 md[2] -> md[2]/sysv/sysdev[255] am am_bw#0
            lane[2]:  5:cma/memory.0 md[4]  -> md[4]/cma/sysdev[255] rma_bw#0
            put[0]: 0..<short>..4294967296..<bcopy>..(inf)
            rma_bw: mds rndv_rkey_size 9";
        assert_eq!(Lanes::parse(shm).to_string(), "ucx:sysv");
        let old = format!("{CMA}\n#  rma_bw: mds rndv_rkey_size 9");
        let old = Lanes::parse(&old);
        assert!(old.is_emulated());
        assert_eq!(old.class_of_bulk(), PathClass::CrossMemory);
        let none = Lanes::parse("something else altogether");
        assert_eq!(
            (none.class(), none.to_string()),
            (PathClass::Tcp, "ucx:unknown".to_owned())
        );
    }

    #[test]
    fn resources_are_found() {
        let text = "#           resource 0  :  md 0  dev 0  flags -- tcp/lo\n# memory: 1.0MB\n\
                    #           resource 2  :  md 1  dev 2  flags -- rc_verbs/rxe0:1";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            parse_resources(text),
            [pair("tcp", "lo"), pair("rc_verbs", "rxe0:1")]
        );
    }
}
