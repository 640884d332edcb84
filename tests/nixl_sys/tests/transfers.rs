//! Moving blocks, byte for byte.

use nixl_sys::{NixlError, NotificationMap, OptArgs, RegDescList, MemType, MemoryRegion, XferOp};
use nixl_sys_user::{BLOCK, BLOCKS, Party, check, until};

const OURS: [usize; 5] = [9, 3, 4, 60, 17];
const THEIRS: [usize; 5] = [0, 63, 8, 9, 10];

fn pair() -> (Party, Party) {
    let (a, b) = (Party::new("a", 1), Party::new("b", 2));
    a.load(&b);
    (a, b)
}

#[test]
fn the_library_is_not_a_stub() {
    assert!(!nixl_sys::is_stub());
}

#[test]
fn lists_are_moved() {
    for op in [XferOp::Read, XferOp::Write] {
        let (a, b) = pair();
        let (here, there) = (a.list(&OURS), b.list(&THEIRS));
        let request = a.agent.create_xfer_req(op, &here, &there, "b", None).unwrap();
        for _ in 0..3 {
            a.run(&request);
            check(op, &a, &b, &OURS, &THEIRS);
        }
    }
}

#[test]
fn indices_of_prepared_lists_are_moved() {
    let all: Vec<usize> = (0..BLOCKS).collect();
    for op in [XferOp::Read, XferOp::Write] {
        let (a, b) = pair();
        let here = a.agent.prepare_xfer_dlist("", &a.list(&all), None).unwrap();
        let there = a.agent.prepare_xfer_dlist("b", &b.list(&all), None).unwrap();
        let numbers = |blocks: &[usize]| blocks.iter().map(|b| *b as i32).collect::<Vec<_>>();
        let (ours, theirs) = (numbers(&OURS), numbers(&THEIRS));
        let request = a
            .agent
            .make_xfer_req(op, &here, &ours, &there, &theirs, None)
            .unwrap();
        a.run(&request);
        check(op, &a, &b, &OURS, &THEIRS);
    }
}

#[test]
fn a_notification_comes_with_its_data() {
    let (a, b) = pair();
    let mut args = OptArgs::new().unwrap();
    args.set_has_notification(true).unwrap();
    args.set_notification_message(b"with\0zero").unwrap();
    let (here, there) = (a.list(&OURS), b.list(&THEIRS));
    let request = a
        .agent
        .create_xfer_req(XferOp::Write, &here, &there, "b", Some(&args))
        .unwrap();
    a.agent.post_xfer_req(&request, None).unwrap();
    let mut got = NotificationMap::new().unwrap();
    until("the notification", || {
        b.agent.get_notifications(&mut got, None).unwrap();
        !got.is_empty().unwrap()
    });
    let messages: Vec<_> = got.get_notifications("a").unwrap().map(Result::unwrap).collect();
    assert_eq!(messages, [b"with\0zero"]);
    check(XferOp::Write, &a, &b, &OURS, &THEIRS);
}

#[test]
fn an_agent_reaches_itself() {
    let a = Party::new("a", 1);
    let request = a
        .agent
        .create_xfer_req(XferOp::Write, &a.list(&[0]), &a.list(&[1]), "a", None)
        .unwrap();
    a.run(&request);
    assert!(a.block(1) == a.block(0));
}

#[test]
fn what_is_taken_back_is_refused() {
    let (a, b) = pair();
    let (here, there) = (a.list(&OURS), b.list(&THEIRS));
    let request = a
        .agent
        .create_xfer_req(XferOp::Read, &here, &there, "b", None)
        .unwrap();
    a.agent.invalidate_remote_md("b").unwrap();
    let e = a.agent.post_xfer_req(&request, None).unwrap_err();
    assert!(matches!(e, NixlError::NotFound), "{e}");
    assert!(!a.agent.check_remote_metadata("b", None));
    check(XferOp::Read, &a, &b, &[], &[]);
}

#[test]
fn a_part_of_the_metadata_opens_a_part_of_the_memory() {
    let a = Party::new("a", 1);
    let b = Party::new("b", 2);
    let other = Party::new("other", 2);
    let mut list = RegDescList::new(MemType::Dram).unwrap();
    list.add_storage_desc(&b.memory).unwrap();
    let blob = b.agent.get_local_partial_md(&list, None).unwrap();
    assert_eq!(a.agent.load_remote_md(&blob).unwrap(), "b");
    assert!(a.agent.check_remote_metadata("b", Some(&b.list(&THEIRS))));
    let strange = a.list(&OURS);
    assert!(!a.agent.check_remote_metadata("b", Some(&strange)));
    let e = other.agent.get_local_partial_md(&list, None).unwrap_err();
    assert!(matches!(e, NixlError::NotFound), "{e}");
    let request = a
        .agent
        .create_xfer_req(XferOp::Read, &a.list(&OURS), &b.list(&THEIRS), "b", None)
        .unwrap();
    a.run(&request);
    check(XferOp::Read, &a, &b, &OURS, &THEIRS);
    assert_eq!(b.memory.size(), BLOCK * BLOCKS);
}
