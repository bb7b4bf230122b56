//! Objects of one type that were given one uid.

use super::*;

fn twin(name: &str, version: u64) -> Prepared {
    object(name, "u1", version, "one")
}

fn stored(twin: &Prepared, sequence: u64) -> Stored {
    let Prepared { uid, name, resource_version, hash, deleting: _, body: _ } = twin.clone();
    Stored { uid, name, resource_version, hash: Some(hash), sequence }
}

#[test]
fn what_is_known_of_one_is_not_known_of_the_other() {
    let table = Table::new();
    table.set_mode(SnapshotMode::HashOnly);
    let (a, b) = (twin("a", 5), twin("b", 5));
    assert_eq!((table.upsert(&a), table.upsert(&b)), (ADDED, ADDED));
    assert_eq!((table.upsert(&a), table.upsert(&b)), (Outcome::Unchanged, Outcome::Unchanged));
    assert_eq!(table.get_to_publish(&a.name, &a.uid).unwrap().body, Some(a.body.clone()));
    table.confirm(&a.name, &a.uid, Confirmation { hash: a.hash, sequence: 1 });
    let other = table.get(&b.name, &b.uid).unwrap();
    assert_eq!((other.told, other.confirmed, other.body), (Told::No, false, Some(b.body.clone())));
    table.confirm(&b.name, &b.uid, Confirmation { hash: b.hash, sequence: 2 });
    table.doubt(&b.name, &b.uid);
    assert!(table.get(&a.name, &a.uid).unwrap().confirmed);
    let removed = table.delete(&twin("b", 6)).unwrap();
    assert_eq!((removed.name, removed.sequence), (b.name, 2));
    assert_eq!(table.keys(), [(a.uid, a.name)]);
}

#[test]
fn one_that_leaves_during_a_relist_takes_no_other_with_it() {
    let table = Table::new();
    table.upsert(&twin("a", 5));
    let relist = table.begin_relist();
    assert!(table.delete(&twin("a", 8)).is_some());
    assert_eq!(table.upsert(&twin("b", 5)), ADDED);
    assert_eq!(table.upsert(&twin("a", 5)), Outcome::Stale, "from a page made before");
    assert_eq!(relist.finish(), []);
    assert_eq!(table.len(), 1);
}

#[test]
fn no_incarnation_that_left_during_a_relist_comes_back_from_an_early_page() {
    let table = Table::new();
    let state = |uid, version| object("a", uid, version, "one");
    table.upsert(&state("u1", 5));
    let relist = table.begin_relist();
    for (uid, version) in [("u1", 6), ("u2", 8)] {
        table.upsert(&state(uid, version));
        assert!(table.delete(&state(uid, version + 1)).is_some());
    }
    assert_eq!((table.upsert(&state("u1", 5)), table.upsert(&state("u2", 8))), (Outcome::Stale, Outcome::Stale));
    assert_eq!(relist.finish(), []);
    assert!(table.is_empty());
}

#[test]
fn each_message_of_the_stream_is_taken_for_its_own_object() {
    let table = Table::new();
    for (name, sequence) in [("a", 1), ("b", 2), ("gone", 3)] {
        assert_eq!(table.restore(stored(&twin(name, 5), sequence)), Restored::Taken);
    }
    assert_eq!(table.stored_digest().objects, 3);
    let relist = table.begin_relist();
    assert_eq!((table.upsert(&twin("a", 5)), table.upsert(&twin("b", 5))), (Outcome::Unchanged, Outcome::Unchanged));
    let gone = relist.finish();
    assert_eq!(names(&gone), BTreeSet::from(["gone".to_owned()]));
    assert_eq!(gone[0].sequence, 3);

    table.forget_stored();
    assert_eq!(table.restore(stored(&twin("b", 5), 7)), Restored::Same);
    let Restored::Ghost(ghost) = table.restore(stored(&twin("gone", 5), 8)) else { panic!("a ghost is kept") };
    assert_eq!((ghost.name, ghost.sequence), (name("gone"), 8));
    assert_eq!(table.lost(), [(Uid::new("u1"), name("a"))]);
}
