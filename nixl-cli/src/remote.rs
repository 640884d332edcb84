//! Two hosts: metadata over TCP, then the same orders as between two processes.

use std::{path::Path, sync::Arc};

use nixl::{
    Agent, Config, Result,
    meta::{
        DEFAULT_LABEL,
        tcp::{self, Access, ClientConfig, MetaServer, ServerConfig, SharedKey},
    },
};

use crate::talk::serve;

fn key(file: Option<&Path>) -> Result<Option<SharedKey>> {
    file.map(SharedKey::from_file).transpose()
}

/// Client settings with the shared key in `secret_file`.
fn client(secret_file: Option<&Path>) -> Result<ClientConfig> {
    Ok(ClientConfig {
        key: key(secret_file)?,
        ..ClientConfig::default()
    })
}

/// Serves, as agent `name`, the first initiator that comes to `addr`.
pub(crate) fn listen(
    config: &Config,
    name: &str,
    addr: &str,
    secret_file: Option<&Path>,
) -> Result<()> {
    let agent = Arc::new(config.agent(name)?.build()?);
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
    serve(&agent, None)
}

/// Exchanges metadata with the target at `addr`; returns its name.
pub(crate) fn connect(agent: &Agent, addr: &str, secret_file: Option<&Path>) -> Result<String> {
    let client = client(secret_file)?;
    let blob = tcp::fetch(addr, DEFAULT_LABEL, &client)?;
    let name = agent.load_metadata(&blob)?;
    tcp::send(addr, &agent.metadata()?, &client)?;
    Ok(name)
}
