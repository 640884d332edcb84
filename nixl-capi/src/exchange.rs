//! Metadata from agent to agent over TCP.

use std::{
    ffi::{c_char, c_void},
    time::Duration,
};

use nixl::meta::{
    DEFAULT_LABEL,
    tcp::{self, Access, ClientConfig, MetaServer, ServerConfig, SharedKey},
};

use crate::{
    agent::{agent, millis, nixl_rs_agent},
    blob::{give, nixl_rs_blob},
    ffi::{Versioned, array, check_out, number, options, put_handle, text, with},
    status::{Result, call, misuse, nixl_rs_status},
    table,
};

/// Serves an agent's metadata.
pub struct nixl_rs_listener(());

pub(crate) struct Listener(MetaServer);

/// Options of the functions of this kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_exchange_options {
    /// sizeof(nixl_rs_exchange_options)
    pub size: usize,
    /// A key of at least 16 bytes that both sides share; NULL: none, then a listener serves
    /// loopback alone.
    pub key: *const c_void,
    /// Bytes of the key.
    pub key_len: usize,
    /// Milliseconds of a whole call; 0: 10 s as a client, 30 s as a listener.
    pub timeout_ms: u64,
}

// SAFETY: INV-8, integers and a pointer.
unsafe impl Versioned for nixl_rs_exchange_options {}

fn key(options: &nixl_rs_exchange_options) -> Result<Option<SharedKey>> {
    if options.key.is_null() && options.key_len == 0 {
        return Ok(None);
    }
    let bytes = array(options.key.cast::<u8>(), options.key_len, "the key")?;
    Ok(Some(SharedKey::new(bytes)?))
}

fn timeout(options: &nixl_rs_exchange_options) -> Option<Duration> {
    (options.timeout_ms > 0).then(|| millis(options.timeout_ms))
}

fn client(from: *const nixl_rs_exchange_options) -> Result<ClientConfig> {
    let options = options(from)?;
    let default = ClientConfig::default();
    Ok(ClientConfig {
        key: key(&options)?,
        timeout: timeout(&options).unwrap_or(default.timeout),
        ..default
    })
}

/// Serves an agent's metadata at `address` (host:port; NULL: a free port on loopback), and takes
/// that of others. `options` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_listener_start(
    agent: *const nixl_rs_agent,
    address: *const c_char,
    options: *const nixl_rs_exchange_options,
    out: *mut *mut nixl_rs_listener,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let options = self::options(options)?;
        let mut config = ServerConfig::default();
        if !address.is_null() {
            config.listen = text(address, "the address")?.to_owned();
        }
        if let Some(key) = key(&options)? {
            config.access = Access::Key(key);
        }
        config.timeout = timeout(&options).unwrap_or(config.timeout);
        self::agent(agent, |core| {
            let server = MetaServer::start(config, nixl::metadata_handler(core))?;
            put_handle(out, Listener(server))
        })
    })
}

/// Where a listener can be reached: host:port.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_listener_address(
    listener: *const nixl_rs_listener,
    address: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| {
        with(listener, |Listener(server)| {
            give(address, server.local_addr().to_string().as_bytes())
        })
    })
}

/// Ends a listener; connections may end by themselves within `grace_ms`, then they are cut.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_listener_stop(
    listener: *mut nixl_rs_listener,
    grace_ms: u64,
) -> nixl_rs_status {
    call(|| {
        if listener.is_null() {
            return Ok(());
        }
        match table::take::<Listener>(number(listener))? {
            Some(Listener(server)) => Ok(server.stop(millis(grace_ms))?),
            // Dropped by the call that still looks at it.
            None => Ok(()),
        }
    })
}

/// Fetches and loads the metadata of the agent that listens at `address`. `name` (may be NULL)
/// receives its name; `options` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_fetch_metadata(
    agent: *const nixl_rs_agent,
    address: *const c_char,
    options: *const nixl_rs_exchange_options,
    name: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| {
        let (address, config) = (text(address, "the address")?, client(options)?);
        let peer = self::agent(agent, |core| {
            let blob = tcp::fetch(address, DEFAULT_LABEL, &config)?;
            Ok(core.load_metadata(&blob)?)
        })?;
        match name.is_null() {
            true => Ok(()),
            false => give(name, peer.as_bytes()),
        }
    })
}

/// Sends this agent's metadata to the agent that listens at `address`. `options` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_send_metadata(
    agent: *const nixl_rs_agent,
    address: *const c_char,
    options: *const nixl_rs_exchange_options,
) -> nixl_rs_status {
    call(|| {
        let (address, config) = (text(address, "the address")?, client(options)?);
        self::agent(agent, |core| {
            tcp::send(address, &core.metadata()?, &config)?;
            Ok(())
        })
    })
}

/// Tells the agent that listens at `address` to forget this one. It wants a key for that.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_invalidate_metadata(
    agent: *const nixl_rs_agent,
    address: *const c_char,
    options: *const nixl_rs_exchange_options,
) -> nixl_rs_status {
    call(|| {
        let (address, config) = (text(address, "the address")?, client(options)?);
        if config.key.is_none() {
            return Err(misuse("invalidating needs the key that both sides share"));
        }
        self::agent(agent, |core| {
            Ok(tcp::invalidate(address, core.name(), &config)?)
        })
    })
}
