//! Processes, leases and servers that go away.

use super::*;

#[test]
fn a_lease_lives_as_long_as_its_process() {
    let Some(server) = Server::start() else {
        return;
    };
    let (dying, closing) = (server.exchange(), server.exchange());
    dying
        .publish("a", "metadata", pattern(9, 1).into())
        .unwrap();
    closing
        .publish("b", "metadata", pattern(9, 2).into())
        .unwrap();
    let mut watch = server.exchange().watch().unwrap();
    assert_eq!(next(&mut *watch), change(true, "a", "metadata"));
    assert_eq!(next(&mut *watch), change(true, "b", "metadata"));
    // Twice the lease's time.
    assert_eq!(
        watch.next(Duration::from_secs(4)).unwrap(),
        None,
        "kept alive"
    );
    let begun = Instant::now();
    closing.close().unwrap();
    assert_eq!(next(&mut *watch), change(false, "b", "metadata"));
    assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    // Dropping does not take back anything, like a crash.
    drop(dying);
    assert_eq!(next(&mut *watch), change(false, "a", "metadata"));
    assert_eq!(server.keys(), []);
}

#[test]
fn a_lost_lease_is_replaced_and_all_published_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let exchange = server.exchange();
    exchange
        .publish("a", "metadata", pattern(9, 1).into())
        .unwrap();
    exchange.publish("a", "part", pattern(8, 2).into()).unwrap();
    let mut watch = server.exchange().watch().unwrap();
    assert_eq!(next(&mut *watch), change(true, "a", "metadata"));
    assert_eq!(next(&mut *watch), change(true, "a", "part"));
    let revoke = || {
        server.raw(async |mut client| {
            let leases = client.leases().await.unwrap();
            for lease in leases.leases() {
                client.lease_revoke(lease.id()).await.unwrap();
            }
        });
    };
    revoke();
    let fetched = exchange.fetch("a", "metadata", LONG).unwrap();
    assert_eq!(fetched, pattern(9, 1), "the keeper noticed");
    assert_eq!(exchange.fetch("a", "part", LONG).unwrap(), pattern(8, 2));
    revoke();
    exchange
        .publish("b", "metadata", pattern(7, 3).into())
        .unwrap();
    assert_eq!(exchange.list().unwrap().len(), 3, "publish noticed");
}

#[test]
fn a_restarted_server_is_found_again() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let exchange = server.exchange();
    exchange
        .publish("a", "metadata", pattern(9, 1).into())
        .unwrap();
    let mut watch = server.exchange().watch().unwrap();
    assert_eq!(next(&mut *watch), change(true, "a", "metadata"));
    server.restart();
    exchange
        .publish("b", "metadata", pattern(9, 2).into())
        .unwrap();
    assert_eq!(next(&mut *watch), change(true, "b", "metadata"));
    assert_eq!(
        exchange.fetch("a", "metadata", LONG).unwrap(),
        pattern(9, 1)
    );
}

#[test]
fn a_server_that_is_away_is_an_error_in_time() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let exchange = EtcdExchange::connect(server.quick()).unwrap();
    exchange
        .publish("a", "metadata", pattern(9, 1).into())
        .unwrap();
    let mut watch = exchange.watch().unwrap();
    assert_eq!(next(&mut *watch), change(true, "a", "metadata"));

    server.stop();
    let begun = Instant::now();
    assert_eq!(kind(exchange.list()), ErrorKind::Timeout);
    assert_eq!(
        kind(exchange.fetch("a", "metadata", LONG)),
        ErrorKind::Timeout
    );
    assert_eq!(
        kind(exchange.publish("a", "x", pattern(1, 1).into())),
        ErrorKind::Timeout
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    server.resume();
    assert_eq!(
        exchange.fetch("a", "metadata", LONG).unwrap(),
        pattern(9, 1)
    );

    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let away = |e: Option<Error>| {
        let e = e.expect("an error");
        let kind = e.kind();
        assert!(
            matches!(kind, ErrorKind::PeerGone | ErrorKind::Timeout),
            "{e}"
        );
    };
    away(exchange.list().err());
    away(exchange.remove("a", "metadata").err());
    away(EtcdExchange::connect(server.quick()).err());
    let broken = (0..20).find_map(|_| watch.next(Duration::from_millis(500)).err());
    away(broken);
}
