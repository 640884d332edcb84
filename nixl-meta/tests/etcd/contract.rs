//! What works, and what is refused.

use super::*;

#[test]
fn blobs_stand_under_nixls_keys() {
    let Some(server) = Server::start() else {
        return;
    };
    let (here, there) = (server.exchange(), server.exchange());
    assert_eq!(
        kind(there.fetch("a", "metadata", Duration::ZERO)),
        ErrorKind::NotFound
    );
    for (len, seed) in [(0, 1), (1_000_001, 2), (10, 3)] {
        here.publish("a", "metadata", pattern(len, seed).into())
            .unwrap();
        let got = there.fetch("a", "metadata", Duration::ZERO).unwrap();
        assert!(got == pattern(len, seed));
    }
    here.publish("a", "part/1", pattern(5, 5).into()).unwrap();
    here.publish("b", "metadata", pattern(6, 6).into()).unwrap();
    let key = |key: &str, len| (key.to_owned(), len);
    assert_eq!(
        server.keys(),
        [
            key("/nixl/agents//a/", 0),
            key("/nixl/agents//a/metadata", 10),
            key("/nixl/agents//a/part/1", 5),
            key("/nixl/agents//b/", 0),
            key("/nixl/agents//b/metadata", 6),
        ]
    );
    let pair = |a: &str, l: &str| (a.to_owned(), l.to_owned());
    assert_eq!(
        there.list().unwrap(),
        [
            pair("a", "metadata"),
            pair("a", "part/1"),
            pair("b", "metadata")
        ]
    );
    here.remove("a", "part/1").unwrap();
    here.remove("a", "part/1").unwrap();
    assert_eq!(server.keys().len(), 4);
    here.remove_agent("a").unwrap();
    assert_eq!(there.list().unwrap(), [pair("b", "metadata")]);
    assert_eq!(server.keys().len(), 2, "the anchor goes with the agent");
}

/// NIXL's agents log an error when an anchor that they watch is written.
#[test]
fn an_anchor_is_written_once() {
    let Some(server) = Server::start() else {
        return;
    };
    let exchange = server.exchange();
    for seed in 0..3 {
        exchange
            .publish("a", "metadata", pattern(9, seed).into())
            .unwrap();
    }
    let version = server.raw(async |mut client| {
        let got = client.get("/nixl/agents//a/", None).await.unwrap();
        got.kvs()[0].version()
    });
    assert_eq!(version, 1);
}

#[test]
fn namespaces_are_apart() {
    let Some(server) = Server::start() else {
        return;
    };
    let other = EtcdExchange::connect(EtcdConfig {
        namespace: "/other".into(),
        ..server.config()
    })
    .unwrap();
    other
        .publish("a", "metadata", pattern(9, 1).into())
        .unwrap();
    assert_eq!(server.keys()[1].0, "/other/a/metadata");
    let exchange = server.exchange();
    assert_eq!(exchange.list().unwrap(), []);
    assert_eq!(
        kind(exchange.fetch("a", "metadata", Duration::ZERO)),
        ErrorKind::NotFound
    );
}

#[test]
fn fetch_waits_for_the_publisher() {
    let Some(server) = Server::start() else {
        return;
    };
    let exchange = server.exchange();
    let begun = Instant::now();
    assert_eq!(
        kind(exchange.fetch("a", "metadata", SOON)),
        ErrorKind::NotFound
    );
    assert!(begun.elapsed() >= SOON);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| exchange.fetch("a", "metadata", LONG));
        let publisher = server.exchange();
        publisher
            .publish("a", "metadata", pattern(9, 9).into())
            .unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), pattern(9, 9));
    });
}

#[test]
fn watching_sees_what_was_what_comes_and_what_goes() {
    let Some(server) = Server::start() else {
        return;
    };
    let exchange = server.exchange();
    exchange
        .publish("a", "metadata", pattern(9, 1).into())
        .unwrap();
    let mut watch = server.exchange().watch().unwrap();
    assert_eq!(next(&mut *watch), change(true, "a", "metadata"));
    assert_eq!(watch.next(SOON).unwrap(), None);
    exchange
        .publish("b", "metadata", pattern(9, 2).into())
        .unwrap();
    assert_eq!(next(&mut *watch), change(true, "b", "metadata"));
    exchange
        .publish("a", "metadata", pattern(9, 3).into())
        .unwrap();
    assert_eq!(next(&mut *watch), change(true, "a", "metadata"));
    exchange.remove_agent("a").unwrap();
    assert_eq!(next(&mut *watch), change(false, "a", "metadata"));
    // As NIXL's agents do it.
    server.raw(async |mut client| {
        let prefix = DeleteOptions::new().with_prefix();
        client
            .delete("/nixl/agents//b/", Some(prefix))
            .await
            .unwrap();
    });
    assert_eq!(next(&mut *watch), change(false, "b", "metadata"));
    assert_eq!(watch.next(SOON).unwrap(), None);
}

#[test]
fn bad_input_is_told_apart() {
    let Some(server) = Server::start() else {
        return;
    };
    let exchange = server.exchange();
    let blob = || pattern(1, 1).into();
    let long = "x".repeat(256);
    for (agent, label) in [
        ("", "l"),
        ("a", ""),
        ("a/b", "l"),
        (&long, "l"),
        ("a", &long),
    ] {
        assert_eq!(
            kind(exchange.publish(agent, label, blob())),
            ErrorKind::ApiMisuse
        );
        assert_eq!(
            kind(exchange.fetch(agent, label, LONG)),
            ErrorKind::ApiMisuse
        );
        assert_eq!(kind(exchange.remove(agent, label)), ErrorKind::ApiMisuse);
    }
    assert_eq!(kind(exchange.remove_agent("a/b")), ErrorKind::ApiMisuse);
    exchange.publish("a", "metadata", blob()).unwrap();
    let large = exchange.publish("a", "metadata", pattern(2 << 20, 1).into());
    assert_eq!(kind(large), ErrorKind::Exhausted);
    assert_eq!(
        exchange.fetch("a", "metadata", LONG).unwrap(),
        pattern(1, 1)
    );

    for endpoints in [
        vec![],
        vec!["https://127.0.0.1:1".into()],
        vec!["not an uri".into()],
    ] {
        let config = EtcdConfig {
            endpoints,
            ..server.quick()
        };
        assert_eq!(kind(EtcdExchange::connect(config)), ErrorKind::ApiMisuse);
    }
    server.raw(async |mut client| {
        client
            .put("/nixl/agents//c", "no label", None)
            .await
            .unwrap();
        client
            .put("/nixl/agents///metadata", "no agent", None)
            .await
            .unwrap();
        client
            .put("/nixl/agents//\u{fffd}", "odd", None)
            .await
            .unwrap();
        client
            .put(b"/nixl/agents//\xff/l".to_vec(), "no text", None)
            .await
            .unwrap();
    });
    assert_eq!(exchange.list().unwrap(), [("a".into(), "metadata".into())]);
}

#[test]
fn users_and_passwords() {
    let Some(server) = Server::start() else {
        return;
    };
    server.raw(async |mut client| {
        client.user_add("root", "right", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.auth_enable().await.unwrap();
    });
    let with = |password: Option<&str>| {
        EtcdExchange::connect(EtcdConfig {
            user: password.map(|p| ("root".into(), p.into())),
            ..server.config()
        })
    };
    assert_eq!(kind(with(None)), ErrorKind::Unauthenticated);
    assert_eq!(kind(with(Some("wrong"))), ErrorKind::Unauthenticated);
    let exchange = with(Some("right")).unwrap();
    exchange
        .publish("a", "metadata", pattern(9, 1).into())
        .unwrap();
    assert_eq!(
        exchange.fetch("a", "metadata", LONG).unwrap(),
        pattern(9, 1)
    );
}
