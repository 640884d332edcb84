//! Agents and the one backend that they have.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    sync::Arc,
    time::Duration,
};

use nixl::{Config, ErrorKind, Region, p2p::NixlListener};
use parking_lot::Mutex;

use crate::{
    args::{MemTypes, Params, Strings, params},
    ffi::{In, Out, Text},
    handle::Handle,
    list::DRAM,
    status::{Result, Status, call},
};

/// The one plugin: NIXL's name for the best path.
const PLUGIN: &CStr = c"UCX";

/// What NIXL's UCX plugin names, with its defaults; none of it changes anything here.
const DEFAULTS: [(&CStr, &CStr); 3] = [
    (c"num_workers", c"1"),
    (c"ucx_devices", c""),
    (c"ucx_error_handling_mode", c"peer"),
];

/// `nixl_capi_agent_config_s`. Threads are those of `NIXL_RS_*`: the fields about them, which
/// tune NIXL's own, are taken and ignored.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct AgentConfig {
    enable_prog_thread: bool,
    enable_listen_thread: bool,
    listen_port: i32,
    thread_sync: u32,
    num_workers: u32,
    pthr_delay_us: u64,
    lthr_delay_us: u64,
    capture_telemetry: bool,
}

pub(crate) struct Agent {
    pub(crate) core: Arc<nixl::Agent>,
    /// Ends with the agent.
    _listener: Option<NixlListener>,
    pub(crate) regions: Mutex<HashMap<(u64, u64), Registered>>,
    /// NIXL counts, and tells peers, nothing before there is a backend.
    has_backend: Mutex<bool>,
    pub(crate) telemetry: bool,
    pub(crate) connect_timeout: Duration,
}

/// Memory that was registered as often as `times` says: NIXL allows that.
pub(crate) struct Registered {
    pub(crate) region: Region,
    pub(crate) times: usize,
}

/// A backend's handle. Each stands for all of this library's paths.
pub(crate) struct Backend;

impl Agent {
    fn create(name: Text, telemetry: bool, listen: Option<i32>) -> Result<Handle> {
        let name = name.get()?;
        let config = Config::load()?;
        let port = listen.map(u16::try_from).transpose();
        let port = port.map_err(|_| Status::InvalidParam)?;
        let core = Arc::new(config.agent(name)?.build()?);
        let listener = port.map(|port| NixlListener::start(&core, port));
        Ok(Handle::new(Self {
            core,
            _listener: listener.transpose()?,
            regions: Mutex::default(),
            has_backend: Mutex::new(false),
            telemetry: telemetry_wanted(telemetry),
            connect_timeout: Duration::from_millis(config.agent.connect_timeout_ms),
        }))
    }

    /// Errors: `missing` before a backend was created.
    pub(crate) fn check_backend(&self, missing: Status) -> Result {
        self.has_backend.lock().then_some(()).ok_or(missing)
    }

    /// Whether metadata of `name` is loaded, or it is this agent.
    pub(crate) fn knows(&self, name: &str) -> bool {
        name == self.core.name() || self.core.peer_card(name).is_ok()
    }

    /// What became of a call that named a peer: NIXL says `NotFound` for one that was invalidated.
    pub(crate) fn judge(&self, peer: &str, e: nixl::Error) -> Status {
        if e.kind() == ErrorKind::PeerGone && !self.knows(peer) {
            return Status::NotFound;
        }
        e.into()
    }
}

/// NIXL's variable wins over the configuration.
fn telemetry_wanted(configured: bool) -> bool {
    match std::env::var("NIXL_TELEMETRY_ENABLE") {
        Ok(value) => matches!(
            value.to_ascii_lowercase().as_str(),
            "1" | "y" | "yes" | "true" | "on" | "enable"
        ),
        Err(_) => configured,
    }
}

fn check_plugin(name: Text) -> Result {
    match name.get()?.as_bytes() == PLUGIN.to_bytes() {
        true => Ok(()),
        // What NIXL's wrapper makes of "not found" here.
        false => Err(Status::Backend),
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_is_stub() -> bool {
    false
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_agent(name: Text, out: Out<Handle>) -> Status {
    call(|| {
        out.check()?;
        out.put(Agent::create(name, false, None)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_configured_agent(
    name: Text,
    config: In<AgentConfig>,
    out: Out<Handle>,
) -> Status {
    call(|| {
        out.check()?;
        let config = config.get()?;
        let port = config.enable_listen_thread.then_some(config.listen_port);
        out.put(Agent::create(name, config.capture_telemetry, port)?)
    })
}

/// Requests that are still active end, and their memory stays registered until they did.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_agent(agent: Handle) -> Status {
    call(|| agent.take::<Agent>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_available_plugins(
    agent: Handle,
    out: Out<Handle>,
) -> Status {
    call(|| {
        out.check()?;
        agent.get::<Agent>()?;
        out.put(Handle::new(Strings(vec![CString::from(PLUGIN)])))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_plugin_params(
    agent: Handle,
    plugin: Text,
    kinds: Out<Handle>,
    values: Out<Handle>,
) -> Status {
    call(|| {
        kinds.check()?;
        values.check()?;
        agent.get::<Agent>()?;
        check_plugin(plugin)?;
        kinds.put(Handle::new(MemTypes(vec![DRAM])))?;
        values.put(params(&DEFAULTS))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_backend(
    agent: Handle,
    plugin: Text,
    values: Handle,
    out: Out<Handle>,
) -> Status {
    call(|| {
        out.check()?;
        let agent = agent.get::<Agent>()?;
        values.get::<Params>()?;
        check_plugin(plugin)?;
        let mut has_backend = agent.has_backend.lock();
        if *has_backend {
            return Err(Status::Backend);
        }
        *has_backend = true;
        tracing::info!(agent = agent.core.name(), "Backend UCX was instantiated");
        out.put(Handle::new(Backend))
    })
}

/// The handle goes; the backend, as NIXL's, stays with its agent.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_backend(backend: Handle) -> Status {
    call(|| backend.take::<Backend>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_backend_params(
    agent: Handle,
    backend: Handle,
    kinds: Out<Handle>,
    values: Out<Handle>,
) -> Status {
    call(|| {
        kinds.check()?;
        values.check()?;
        agent.get::<Agent>()?;
        backend.get::<Backend>()?;
        kinds.put(Handle::new(MemTypes(vec![DRAM])))?;
        values.put(params(&[]))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_agent_make_connection(
    agent: Handle,
    peer: Text,
    args: Handle,
) -> Status {
    call(|| {
        let agent = agent.get::<Agent>()?;
        let peer = peer.get()?;
        crate::args::options(args)?;
        if peer == agent.core.name() {
            return Ok(());
        }
        agent.core.connect(peer, agent.connect_timeout)?;
        Ok(())
    })
}
