//! The agent card as fields. Name and generation stand in the blob's head, not here.

use bytes::Bytes;

use super::{
    Limits,
    tlv::{Reader, Writer, malformed, once},
};
use crate::{
    AgentCard, BackendCard, Generation, HostId, PathCard, ProbeCard, RegionId, Result, Secret,
};

const SECRET: u64 = 1;
const HOST: u64 = 2;
const FLAGS: u64 = 3;
const BACKEND: u64 = 4;
const PROBE: u64 = 5;

const BACKEND_NAME: u64 = 1;
const BACKEND_ADDRESS: u64 = 2;
const BACKEND_PATH: u64 = 3;

const PROGRESSES: u8 = 1;

pub(super) fn put(out: &mut Writer, card: &AgentCard) {
    out.field(SECRET, |out| out.bytes(&card.secret.0));
    out.field(HOST, |out| put_host(out, &card.host));
    let flags = if card.progresses { PROGRESSES } else { 0 };
    out.field(FLAGS, |out| out.bytes(&[flags]));
    for backend in &card.backends {
        out.field(BACKEND, |out| put_backend(out, backend));
    }
    for probe in &card.probes {
        out.field(PROBE, |out| {
            out.bytes(&probe.region.0.to_le_bytes());
            out.bytes(&probe.nonce);
        });
    }
}

fn put_host(out: &mut Writer, host: &HostId) {
    out.bytes(&host.boot);
    out.bytes(&host.pid_ns.to_le_bytes());
    out.bytes(&host.net_ns.to_le_bytes());
    out.bytes(&host.pid.to_le_bytes());
    out.bytes(&host.uid.to_le_bytes());
    out.bytes(host.name.as_bytes());
}

fn put_backend(out: &mut Writer, backend: &BackendCard) {
    out.field(BACKEND_NAME, |out| out.bytes(backend.backend.as_bytes()));
    out.field(BACKEND_ADDRESS, |out| out.bytes(&backend.address));
    for path in &backend.paths {
        out.field(BACKEND_PATH, |out| {
            out.bytes(&path.wire_min.to_le_bytes());
            out.bytes(&path.wire_max.to_le_bytes());
            out.bytes(path.path.as_bytes());
        });
    }
}

pub(super) fn read(
    mut reader: Reader<'_>,
    name: &str,
    generation: Generation,
    limits: &Limits,
) -> Result<AgentCard> {
    let start = reader.at();
    let (mut secret, mut host, mut flags) = (None, None, None);
    let (mut backends, mut probes) = (Vec::new(), Vec::new());
    while let Some((tag, field)) = reader.field()? {
        let at = field.at();
        match tag {
            SECRET => once(
                &mut secret,
                field.exactly("card.secret")?,
                "card.secret",
                at,
            )?,
            HOST => once(&mut host, read_host(field)?, "card.host", at)?,
            FLAGS => once(&mut flags, field.exactly("card.flags")?, "card.flags", at)?,
            BACKEND => push_backend(&mut backends, read_backend(field, limits)?, at, limits)?,
            PROBE => push_probe(&mut probes, field, limits)?,
            _ => {}
        }
    }
    let missing = |field: &str| malformed(field, start, "missing from the agent card");
    let [flags] = flags.ok_or_else(|| missing("card.flags"))?;
    Ok(AgentCard {
        name: name.to_owned(),
        generation,
        secret: Secret(secret.ok_or_else(|| missing("card.secret"))?),
        host: host.ok_or_else(|| missing("card.host"))?,
        progresses: flags & PROGRESSES != 0,
        backends,
        probes,
        foreign: false,
    })
}

fn read_host(mut reader: Reader<'_>) -> Result<HostId> {
    const FIELD: &str = "card.host";
    Ok(HostId {
        boot: reader.array(FIELD)?,
        pid_ns: reader.u64(FIELD)?,
        net_ns: reader.u64(FIELD)?,
        pid: reader.u32(FIELD)?,
        uid: reader.u32(FIELD)?,
        name: match reader.remaining() {
            0 => String::new(),
            _ => reader.name(FIELD)?.to_owned(),
        },
    })
}

fn push_backend(
    backends: &mut Vec<BackendCard>,
    new: BackendCard,
    at: usize,
    limits: &Limits,
) -> Result<()> {
    const FIELD: &str = "card.backend";
    if backends.iter().any(|b| b.backend == new.backend) {
        let why = format!("backend {:?} appears twice", new.backend);
        return Err(malformed(FIELD, at, why));
    }
    limits.check_backends(backends.len(), FIELD, at)?;
    backends.push(new);
    Ok(())
}

fn read_backend(mut reader: Reader<'_>, limits: &Limits) -> Result<BackendCard> {
    let start = reader.at();
    let (mut name, mut address, mut paths) = (None, None, Vec::new());
    while let Some((tag, mut field)) = reader.field()? {
        let at = field.at();
        match tag {
            BACKEND_NAME => {
                let value = field.name("backend.name")?.to_owned();
                once(&mut name, value, "backend.name", at)?;
            }
            BACKEND_ADDRESS => {
                let value = Bytes::copy_from_slice(field.rest());
                once(&mut address, value, "backend.address", at)?;
            }
            BACKEND_PATH => push_path(&mut paths, field, limits)?,
            _ => {}
        }
    }
    let missing = |field: &str| malformed(field, start, "missing from a backend's card");
    Ok(BackendCard {
        backend: name.ok_or_else(|| missing("backend.name"))?,
        address: address.ok_or_else(|| missing("backend.address"))?,
        paths,
    })
}

fn push_path(paths: &mut Vec<PathCard>, mut reader: Reader<'_>, limits: &Limits) -> Result<()> {
    const FIELD: &str = "backend.path";
    let at = reader.at();
    let new = PathCard {
        wire_min: reader.u16(FIELD)?,
        wire_max: reader.u16(FIELD)?,
        path: reader.name(FIELD)?.to_owned(),
    };
    if new.wire_min > new.wire_max {
        let why = format!(
            "path {:?} speaks wire versions {} to {}, which is none",
            new.path, new.wire_min, new.wire_max
        );
        return Err(malformed(FIELD, at, why));
    }
    if paths.iter().any(|p| p.path == new.path) {
        let why = format!("path {:?} appears twice", new.path);
        return Err(malformed(FIELD, at, why));
    }
    limits.check_backends(paths.len(), FIELD, at)?;
    paths.push(new);
    Ok(())
}

fn push_probe(probes: &mut Vec<ProbeCard>, mut reader: Reader<'_>, limits: &Limits) -> Result<()> {
    const FIELD: &str = "card.probe";
    let at = reader.at();
    let new = ProbeCard {
        region: RegionId(reader.u64(FIELD)?),
        nonce: reader.array(FIELD)?,
    };
    reader.end(FIELD)?;
    if probes.iter().any(|p| p.region == new.region) {
        let why = format!("region {} is probed twice", new.region.0);
        return Err(malformed(FIELD, at, why));
    }
    limits.check_backends(probes.len(), FIELD, at)?;
    probes.push(new);
    Ok(())
}
