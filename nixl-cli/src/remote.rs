//! Two hosts: metadata over TCP, then the same orders as between two processes.

use std::{path::Path, sync::Arc, time::Duration};

use nixl::{
    Agent, Config, Result,
    meta::{
        DEFAULT_LABEL,
        tcp::{self, Access, ClientConfig, MetaServer, ServerConfig, SharedKey},
    },
};

use crate::job::serve;

const TARGET: &str = "bench-target";

/// How long `--listen` waits for an initiator.
const WAIT: Duration = Duration::from_secs(24 * 3600);

fn key(file: Option<&Path>) -> Result<Option<SharedKey>> {
    file.map(SharedKey::from_file).transpose()
}

/// Client settings with the shared key in `secret_file`.
pub(crate) fn client(secret_file: Option<&Path>) -> Result<ClientConfig> {
    Ok(ClientConfig {
        key: key(secret_file)?,
        ..ClientConfig::default()
    })
}

/// Serves one initiator at `addr`.
pub(crate) fn listen(config: &Config, addr: &str, secret_file: Option<&Path>) -> Result<()> {
    let agent = Arc::new(config.agent(TARGET)?.build()?);
    let server = MetaServer::start(
        ServerConfig {
            listen: addr.to_owned(),
            access: key(secret_file)?.map_or(Access::LoopbackOnly, Access::Key),
            ..ServerConfig::default()
        },
        nixl::metadata_handler(&agent),
    )?;
    eprintln!(
        "listening on {}; waiting for an initiator",
        server.local_addr()
    );
    let waiting = std::time::Instant::now();
    while agent.peers().is_empty() && waiting.elapsed() < WAIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    serve(&agent)
}

/// Exchanges metadata with the target at `addr`; returns its name.
pub(crate) fn connect(agent: &Agent, addr: &str, secret_file: Option<&Path>) -> Result<String> {
    let client = client(secret_file)?;
    let blob = tcp::fetch(addr, DEFAULT_LABEL, &client)?;
    let name = agent.load_metadata(&blob)?;
    tcp::send(addr, &agent.metadata()?, &client)?;
    Ok(name)
}
