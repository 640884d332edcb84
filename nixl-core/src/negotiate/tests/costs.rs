//! Corrections of advertised costs.

use super::*;

fn first(book: &CostBook) -> PathName {
    let case = Case::new();
    case.run_with(&|c, d| book.cost(c, d)).ranked[0].path
}

/// How much slower than advertised the book thinks `caps` is.
fn ratio(book: &CostBook, caps: &PathCaps) -> f64 {
    let cost = book.cost(caps, &demand()).0;
    cost.estimate_ns(100, 1 << 20) as f64 / caps.cost.estimate_ns(100, 1 << 20) as f64
}

/// Records a transfer of `demand()`'s size that took `times` its estimate.
fn record(book: &mut CostBook, caps: &PathCaps, times: f64) {
    let estimate = caps.cost.estimate_ns(100, 1 << 20) as f64;
    book.record(caps, Op::Read, 100, 1 << 20, (estimate * times) as u64);
}

#[test]
fn measurements_converge_and_change_the_ranking() {
    let paths = paths();
    let mut book = CostBook::default();
    assert_eq!(
        book.cost(&paths[1], &demand()),
        (paths[1].cost, CostSource::Advertised)
    );
    assert_eq!(first(&book), "shm");
    for _ in 0..20 {
        record(&mut book, &paths[1], 3.0);
    }
    assert!((2.9..3.1).contains(&ratio(&book, &paths[1])));
    assert_eq!(first(&book), "cma");
    let source = |op, bytes| {
        let demand = Demand {
            op,
            bytes,
            ..demand()
        };
        book.cost(&paths[1], &demand).1
    };
    assert_eq!(source(Op::Read, 1 << 20), CostSource::Measured);
    assert_eq!(source(Op::Write, 1 << 20), CostSource::Advertised);
    assert_eq!(source(Op::Read, 1 << 26), CostSource::Advertised);
}

#[test]
fn one_stalled_transfer_does_not_move_a_known_path_to_the_bound() {
    let paths = paths();
    let mut book = CostBook::default();
    for _ in 0..10 {
        record(&mut book, &paths[1], 1.0);
    }
    record(&mut book, &paths[1], 1e6);
    let stalled = ratio(&book, &paths[1]);
    assert!((2.7..2.9).contains(&stalled), "64^(1/4), not 64: {stalled}");
    for _ in 0..10 {
        record(&mut book, &paths[1], 1.0);
    }
    assert!(ratio(&book, &paths[1]) < 1.1);
}

#[test]
fn a_slow_path_gets_another_chance_and_a_slow_answer_ends_it() {
    let paths = paths();
    let mut book = CostBook::default();
    for _ in 0..20 {
        record(&mut book, &paths[1], 3.0);
    }
    let mut transfers = 0;
    while first(&book) == "cma" {
        record(&mut book, &paths[2], 1.0);
        transfers += 1;
        assert!(transfers < 2000, "shm is never tried again");
    }
    assert!(
        transfers > 100,
        "tried again after only {transfers} transfers"
    );
    record(&mut book, &paths[1], 3.0);
    assert_eq!(first(&book), "cma");
}

#[test]
fn extreme_times_stay_within_the_bound() {
    for (nanos, want) in [(u64::MAX, 60.0..68.0), (0, 0.01..0.02)] {
        let paths = paths();
        let mut book = CostBook::default();
        for _ in 0..50 {
            book.record(&paths[1], Op::Read, 100, 1 << 20, nanos);
        }
        let found = ratio(&book, &paths[1]);
        assert!(want.contains(&found), "{nanos} ns: {found}");
    }
}

#[test]
fn a_cold_first_transfer_does_not_decide_alone() {
    let paths = paths();
    let mut book = CostBook::default();
    record(&mut book, &paths[1], 1e6);
    let cold = ratio(&book, &paths[1]);
    assert!((7.9..8.1).contains(&cold), "64^(1/2), not 64: {cold}");
    for _ in 0..12 {
        record(&mut book, &paths[1], 1.0);
    }
    assert!(ratio(&book, &paths[1]) < 1.1);
}
