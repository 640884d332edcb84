//! Where an agent listens: the bytes in its card, and this machine's own addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr::NonNull,
};

use nixl_core::{Error, ErrorKind, Result};

const VERSION: u8 = 1;
const NAME: u8 = 0;
const V4: u8 = 4;
const V6: u8 = 6;

/// One published place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Host {
    pub(crate) fn parse(text: &str) -> Self {
        text.parse()
            .map_or_else(|_| Self::Name(text.to_owned()), Self::Ip)
    }

    fn is_loopback(&self) -> bool {
        matches!(self, Self::Ip(ip) if ip.is_loopback())
    }
}

/// Address section of the backend card: port and hosts, the ones to try first in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) port: u16,
    pub(crate) hosts: Vec<Host>,
}

impl Address {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let hosts = &self.hosts[..self.hosts.len().min(255)];
        let mut out = vec![VERSION];
        out.extend(self.port.to_le_bytes());
        out.push(hosts.len() as u8);
        for host in hosts {
            match host {
                Host::Ip(IpAddr::V4(ip)) => {
                    out.push(V4);
                    out.extend(ip.octets());
                }
                Host::Ip(IpAddr::V6(ip)) => {
                    out.push(V6);
                    out.extend(ip.octets());
                }
                Host::Name(name) => {
                    let name = &name.as_bytes()[..name.len().min(255)];
                    out.extend([NAME, name.len() as u8]);
                    out.extend(name);
                }
            }
        }
        out
    }

    /// Reads the section; `Malformed` names what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = |what: &str| {
            Error::new(
                ErrorKind::Malformed,
                format!("TCP address in the peer's card: {what}"),
            )
        };
        let mut rest = bytes;
        let mut take = |n: usize| -> Result<&[u8]> {
            let (head, tail) = rest
                .split_at_checked(n)
                .ok_or_else(|| bad("it is too short"))?;
            rest = tail;
            Ok(head)
        };
        if take(1)?[0] != VERSION {
            return Err(bad("its version is unknown"));
        }
        let port = take(2)?;
        let port = u16::from_le_bytes([port[0], port[1]]);
        let n = take(1)?[0];
        let mut hosts = Vec::with_capacity(usize::from(n));
        for _ in 0..n {
            hosts.push(match take(1)?[0] {
                V4 => Host::Ip(IpAddr::V4(Ipv4Addr::from(array::<4>(take(4)?)))),
                V6 => Host::Ip(IpAddr::V6(Ipv6Addr::from(array::<16>(take(16)?)))),
                NAME => {
                    let len = usize::from(take(1)?[0]);
                    let name = std::str::from_utf8(take(len)?);
                    Host::Name(name.map_err(|_| bad("a name is not UTF-8"))?.to_owned())
                }
                _ => return Err(bad("a host has an unknown kind")),
            });
        }
        if !rest.is_empty() || hosts.is_empty() || port == 0 {
            return Err(bad("it names no host or has bytes left over"));
        }
        Ok(Self { port, hosts })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

/// What to publish for a listener bound to `bound` (its IPv6 wildcard takes IPv4 if `v4_too`).
pub(crate) fn published(bound: IpAddr, advertise: &[String]) -> Result<Vec<Host>> {
    if !advertise.is_empty() {
        return Ok(advertise.iter().map(|a| Host::parse(a)).collect());
    }
    if !bound.is_unspecified() {
        return Ok(vec![Host::Ip(bound)]);
    }
    let mut hosts: Vec<Host> = interfaces()?
        .into_iter()
        .filter(|ip| ip.is_ipv4() || bound.is_ipv6())
        .map(Host::Ip)
        .collect();
    // Loopback last: it reaches us only from this host.
    hosts.sort_by_key(Host::is_loopback);
    hosts.truncate(64);
    Ok(hosts)
}

/// Addresses of the interfaces that are up, without IPv6 link-local ones, which need a scope
/// (getifaddrs(3)).
fn interfaces() -> Result<Vec<IpAddr>> {
    let mut head: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: INV-5, `head` is a valid place for the list's head.
    if unsafe { libc::getifaddrs(&mut head) } != 0 {
        let e = std::io::Error::last_os_error();
        return Err(Error::os("getifaddrs", e));
    }
    let list = IfAddrs(head);
    let mut out = Vec::new();
    let mut at = NonNull::new(list.0);
    while let Some(entry) = at {
        // SAFETY: INV-5, an entry of the list, which lives until `list` is dropped.
        let entry = unsafe { entry.as_ref() };
        at = NonNull::new(entry.ifa_next);
        let up = entry.ifa_flags & libc::IFF_UP as libc::c_uint != 0;
        if let Some(addr) = NonNull::new(entry.ifa_addr).filter(|_| up)
            && let Some(ip) = ip_of(addr)
            && !out.contains(&ip)
        {
            out.push(ip);
        }
    }
    Ok(out)
}

fn ip_of(addr: NonNull<libc::sockaddr>) -> Option<IpAddr> {
    // SAFETY: INV-5, an address of the list has at least a family.
    let family = i32::from(unsafe { addr.as_ref() }.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: INV-5, family AF_INET means `sockaddr_in` (ip(7)).
            let v4 = unsafe { addr.cast::<libc::sockaddr_in>().as_ref() };
            let octets = v4.sin_addr.s_addr.to_ne_bytes();
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        libc::AF_INET6 => {
            // SAFETY: INV-5, family AF_INET6 means `sockaddr_in6` (ipv6(7)).
            let v6 = unsafe { addr.cast::<libc::sockaddr_in6>().as_ref() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            (!ip.is_unicast_link_local()).then_some(IpAddr::V6(ip))
        }
        _ => None,
    }
}

struct IfAddrs(*mut libc::ifaddrs);

impl Drop for IfAddrs {
    fn drop(&mut self) {
        // SAFETY: INV-3, the list of one successful getifaddrs, freed once.
        unsafe { libc::freeifaddrs(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_card_and_damage_is_named() {
        let a = Address {
            port: 4711,
            hosts: ["10.0.0.7", "fd00::1", "node-7.cluster"]
                .map(Host::parse)
                .to_vec(),
        };
        let bytes = a.encode();
        assert_eq!(Address::decode(&bytes), Ok(a));
        for n in 0..bytes.len() {
            assert_eq!(
                Address::decode(&bytes[..n]).unwrap_err().kind(),
                ErrorKind::Malformed
            );
        }
        let mut long = bytes;
        long.push(0);
        assert!(Address::decode(&long).is_err());
    }

    #[test]
    fn this_machine_has_a_loopback_address_and_it_comes_last() {
        let hosts = published(IpAddr::V6(Ipv6Addr::UNSPECIFIED), &[]).unwrap();
        assert!(hosts.last().unwrap().is_loopback(), "{hosts:?}");
    }
}
