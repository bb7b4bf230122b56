//! Tables, by case and against sets.

mod repeated_uid;

use std::collections::BTreeSet;
use std::sync::Arc;

use meshsync_crds::agent_config::SnapshotMode;
use meshsync_crds::discovery::ServedType;
use proptest::prelude::*;

use super::*;
use crate::object::{ObjectName, Prepared, TypeContext, Uid, prepare};

/// An object named `name` in namespace `ns`, in a state of that version and content.
pub(crate) fn object(name: &str, uid: &str, version: u64, content: &str) -> Prepared {
    let context = TypeContext {
        api_version: "v1".to_owned(),
        kind: "Thing".to_owned(),
        is_secret: false,
        redact: true,
        metadata_only: false,
    };
    let raw = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"ns","uid":"{uid}","resourceVersion":"{version}"}},"spec":"{content}"}}"#
    );
    prepare(raw.as_bytes(), &context).unwrap()
}

pub(crate) fn served(plural: &str, verbs: &[&str]) -> ServedType {
    ServedType {
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..ServedType::named("example.com", "v1", "Thing", plural)
    }
}

fn name(name: &str) -> ObjectName {
    ObjectName::new(Some("ns"), name)
}

fn names(removed: &[Removed]) -> BTreeSet<String> {
    removed.iter().map(|one| one.name.name().to_owned()).collect()
}

const CONFIRMED: Confirmation = Confirmation { hash: 1, sequence: 1 };
const ADDED: Outcome = Outcome::Added { replaced: None };

#[test]
fn states_are_told_apart_by_content_and_order() {
    let table = Table::new();
    assert_eq!(table.upsert(&object("a", "u1", 5, "one")), ADDED);
    assert_eq!(table.upsert(&object("a", "u1", 5, "one")), Outcome::Unchanged);
    assert_eq!(table.upsert(&object("a", "u1", 6, "one")), Outcome::Unchanged);
    assert_eq!(table.upsert(&object("a", "u1", 5, "old")), Outcome::Stale);
    assert_eq!(table.upsert(&object("a", "u1", 7, "two")), Outcome::Modified);
    let copy = table.get(&name("a"), &Uid::new("u1")).unwrap();
    assert_eq!(copy.body, Some(object("a", "u1", 7, "two").body));
    assert_eq!(copy.resource_version.to_string(), "7");
    assert_eq!(table.get_named(&name("a")), Some(copy));
    assert_eq!(table.get_named(&ObjectName::new(None, "a")), None);
}

#[test]
fn a_new_incarnation_pushes_out_the_one_whose_delete_was_missed() {
    let table = Table::new();
    table.upsert(&object("a", "u1", 5, "one"));
    table.confirm(&name("a"), &Uid::new("u1"), CONFIRMED);
    let Outcome::Added { replaced: Some(removed) } = table.upsert(&object("a", "u2", 9, "one")) else {
        panic!("the old incarnation stays")
    };
    assert_eq!((removed.uid, removed.told), (Uid::new("u1"), Told::Yes));
    assert_eq!(table.upsert(&object("a", "u1", 6, "late")), Outcome::Stale);
    assert_eq!(table.get_named(&name("a")).unwrap().uid, Uid::new("u2"));
    assert_eq!(table.len(), 1);
}

#[test]
fn a_delete_takes_out_what_it_means() {
    let table = Table::new();
    table.upsert(&object("a", "u1", 5, "one"));
    assert_eq!(table.delete(&object("a", "u0", 4, "an earlier namesake")), None);
    assert_eq!(table.delete(&object("a", "u1", 8, "one")).unwrap().resource_version.to_string(), "8");
    assert_eq!(table.delete(&object("a", "u1", 8, "one")), None);

    table.upsert(&object("a", "u1", 15, "one"));
    assert_eq!(table.delete(&object("a", "u2", 16, "a later namesake")).unwrap().uid, Uid::new("u1"));

    table.upsert(&object("nameless", "", 20, "one"));
    assert_eq!(table.delete(&object("nameless", "", 19, "from before it was created again")), None);
    assert!(table.delete(&object("nameless", "", 21, "one")).is_some());
    assert!(table.is_empty());
}

#[test]
fn what_leaves_during_a_relist_does_not_come_back_from_an_early_page() {
    let table = Table::new();
    table.upsert(&object("a", "u1", 5, "one"));
    table.upsert(&object("nameless", "", 5, "one"));
    let relist = table.begin_relist();
    table.delete(&object("a", "u1", 8, "one"));
    table.delete(&object("nameless", "", 8, "one"));
    assert_eq!(table.upsert(&object("a", "u1", 5, "one")), Outcome::Stale);
    assert_eq!(table.upsert(&object("nameless", "", 5, "one")), Outcome::Stale);
    assert_eq!(table.upsert(&object("nameless", "", 9, "created again")), ADDED);
    assert_eq!(relist.finish(), []);
    assert_eq!(table.len(), 1);
}

#[test]
fn an_unfinished_relist_takes_nothing_out() {
    let table = Table::new();
    table.upsert(&object("a", "u1", 5, "one"));
    let first = table.begin_relist();
    let second = table.begin_relist();
    assert_eq!(first.finish(), []);
    drop(second);
    assert_eq!(table.len(), 1);
    assert_eq!(names(&table.begin_relist().finish()), BTreeSet::from(["a".to_owned()]));
    assert_eq!(table.stats(), TableStats::default());
}

#[test]
fn a_restored_etcd_is_believed_when_asked() {
    let table = Table::new();
    table.upsert(&object("a", "u1", 500, "lost with the disk"));
    let relist = table.begin_relist();
    assert_eq!(table.upsert(&object("a", "u1", 100, "from the backup")), Outcome::Stale);
    relist.accept_older();
    assert_eq!(table.upsert(&object("a", "u1", 100, "from the backup")), Outcome::Modified);
    assert_eq!(relist.finish(), []);
    assert_eq!(table.upsert(&object("a", "u1", 99, "late")), Outcome::Stale);
}

#[test]
fn what_was_handed_out_may_be_known() {
    let table = Table::new();
    table.upsert(&object("a", "u1", 5, "one"));
    let uid = Uid::new("u1");
    assert_eq!(table.get_to_publish(&name("a"), &uid).unwrap().told, Told::No);
    assert_eq!(table.get(&name("a"), &uid).unwrap().told, Told::Maybe);
    table.confirm(&name("a"), &uid, CONFIRMED);
    assert_eq!(table.get_to_publish(&name("a"), &uid).unwrap().told, Told::Yes);
    assert_eq!(table.remove_named(&name("a")).unwrap().told, Told::Yes);
    assert_eq!(table.get_to_publish(&name("a"), &uid), None);
}

#[test]
fn a_dictionary_makes_bodies_small_and_keeps_them_whole() {
    let table = Table::new();
    let filler = "a text that is the same in every object of its type, as most of a Deployment is; ".repeat(12);
    let all: Vec<_> = (0..400)
        .map(|index: u32| {
            let own = format!("{}{:x}", filler, index.wrapping_mul(2_654_435_761));
            object(&format!("name-{index}"), &format!("uid-{index}"), 5, &own)
        })
        .collect();
    for prepared in &all {
        table.upsert(prepared);
    }
    let stats = table.stats();
    assert_eq!((stats.objects, stats.body_bytes), (400, all.iter().map(|one| one.body.len()).sum()));
    let codec_memory = Codec::train(all.iter().take(128).map(|one| &*one.body)).unwrap().memory();
    let each = stats.packed_bytes.saturating_sub(codec_memory) / 400;
    assert!(each < 150, "{each} bytes each");
    for prepared in &all {
        assert_eq!(table.get(&prepared.name, &prepared.uid).unwrap().body, Some(prepared.body.clone()));
    }
    for prepared in &all {
        table.remove_named(&prepared.name);
    }
    assert_eq!((table.stats().body_bytes, table.stats().objects), (0, 0));
}

#[test]
fn a_codec_packs_anything() {
    let plain = Codec::default();
    for body in [&b""[..], b"x", &[0; 1_400_000], "{}".repeat(3).as_bytes()] {
        let packed = plain.pack(&body.to_vec().into());
        assert_eq!((packed.len(), packed.is_empty()), (body.len(), body.is_empty()));
        assert_eq!(*plain.unpack(&packed).unwrap(), *body);
    }
    assert!(Codec::train([]).is_none());
    assert!(plain.pack(&vec![7; 1_400_000].into()).packed_len() < 1000);
}

#[test]
fn a_scan_gives_every_object_once_while_others_come_and_go() {
    let table = Table::new();
    for index in 0..300 {
        table.upsert(&object(&format!("stays-{index}"), &format!("stays-{index}"), 1, "x"));
    }
    let mut scan = table.scan();
    let mut seen = Vec::new();
    for round in 0.. {
        table.upsert(&object(&format!("new-{round}"), &format!("new-{round}"), 1, "x"));
        table.remove_named(&name(&format!("new-{}", round / 2)));
        let Some(object) = scan.next() else { break };
        seen.push(object.name.name().to_owned());
    }
    let stays = seen.iter().filter(|name| name.starts_with("stays")).count();
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!((stays, distinct.len()), (300, seen.len()));
}

#[test]
fn a_dropped_type_gives_up_its_objects_and_takes_none() {
    let store = Store::new();
    let (things, table) = store.open(&served("things", &["list"]));
    let (others, _) = store.open(&served("others", &["list"]));
    assert_ne!(things, others);
    table.upsert(&object("a", "u1", 5, "one"));
    table.upsert(&object("b", "u2", 6, "two"));
    let _late_relist = table.begin_relist();
    assert_eq!(names(&store.drop_type(things)), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    assert_eq!(table.upsert(&object("c", "u3", 7, "late")), Outcome::Stale);
    assert!(store.table(things).is_none() && table.is_empty());
    assert_eq!(store.served_type(things).unwrap().plural, "things");
    assert_eq!(store.drop_type(things), []);

    let (again, fresh) = store.open(&served("things", &["list", "watch"]));
    assert_eq!(again, things);
    assert_eq!(fresh.upsert(&object("c", "u3", 7, "back")), ADDED);
    assert_eq!(store.tables().len(), 2);
    assert_eq!(store.stats().objects, 1);
    assert!(Arc::ptr_eq(&fresh, &store.table(again).unwrap()));
}

proptest! {
    #[test]
    fn a_relist_takes_out_the_set_difference(
        known in prop::collection::btree_set(0_u8..24, 0..20),
        steps in prop::collection::vec((0_u8..3, 0_u8..24), 0..40),
    ) {
        let table = Table::new();
        let state = |id: u8, version| object(&format!("n{id}"), &format!("u{id}"), version, "x");
        for &id in &known {
            table.upsert(&state(id, 1));
        }
        let relist = table.begin_relist();
        let (mut present, mut seen, mut departed) = (known.clone(), BTreeSet::new(), BTreeSet::new());
        for &(step, id) in &steps {
            if step == 2 {
                table.delete(&state(id, 3));
                if present.remove(&id) {
                    departed.insert(id);
                }
            } else if !departed.contains(&id) {
                // A page of the list, or a live event: both count.
                table.upsert(&state(id, 1 + u64::from(step)));
                present.insert(id);
                seen.insert(id);
            } else {
                prop_assert_eq!(table.upsert(&state(id, 1)), Outcome::Stale);
            }
        }
        let expected: BTreeSet<_> = present.difference(&seen).map(|id| format!("n{id}")).collect();
        prop_assert_eq!(names(&relist.finish()), expected);
        let left: BTreeSet<_> = table.scan().map(|object| object.name.name().to_owned()).collect();
        let stayed: BTreeSet<_> = present.intersection(&seen).map(|id| format!("n{id}")).collect();
        prop_assert_eq!(left, stayed);
    }
}

#[test]
fn where_only_hashes_are_kept_a_body_goes_once_consumers_have_it() {
    let table = Table::new();
    table.set_mode(SnapshotMode::HashOnly);
    let (one, two) = (object("a", "u1", 5, "one"), object("a", "u1", 6, "two"));
    table.upsert(&one);
    assert_eq!(table.get(&one.name, &one.uid).unwrap().body, Some(one.body.clone()), "it is to be sent");
    // A newer state came before the older one was confirmed.
    assert_eq!(table.upsert(&two), Outcome::Modified);
    table.confirm(&one.name, &one.uid, Confirmation { hash: one.hash, sequence: 1 });
    assert_eq!(table.get(&one.name, &one.uid).unwrap().body, Some(two.body.clone()));
    table.confirm(&one.name, &one.uid, Confirmation { hash: two.hash, sequence: 2 });
    assert_eq!(table.get(&one.name, &one.uid).unwrap().body, None);
    assert_eq!((table.stats().objects, table.stats().body_bytes), (1, 0));
    assert_eq!(table.upsert(&two), Outcome::Unchanged);
    assert_eq!(table.get(&one.name, &one.uid).unwrap().body, None, "nobody needs it");

    // Somebody needs it after all: the next list brings it, and it is sent.
    table.want_body(&one.name, &one.uid);
    assert_eq!(table.upsert(&two), Outcome::Modified);
    assert!(table.get(&one.name, &one.uid).unwrap().body.is_some());

    table.confirm(&one.name, &one.uid, Confirmation { hash: two.hash, sequence: 3 });
    table.set_mode(SnapshotMode::Full);
    assert_eq!(table.upsert(&two), Outcome::Unchanged);
    assert_eq!(table.get(&one.name, &one.uid).unwrap().body, Some(two.body.clone()), "kept from here on");
    table.set_mode(SnapshotMode::HashOnly);
    assert_eq!(table.stats().packed_bytes, 0);
}

#[test]
fn a_list_that_was_running_when_a_body_was_wanted_is_not_the_one_that_is_awaited() {
    let table = Table::new();
    table.set_mode(SnapshotMode::HashOnly);
    let one = object("a", "u1", 5, "one");
    table.upsert(&one);
    table.confirm(&one.name, &one.uid, Confirmation { hash: one.hash, sequence: 1 });
    let running = table.begin_relist();
    assert_eq!(table.upsert(&one), Outcome::Unchanged, "its page has passed, and nobody needed the body");
    table.want_body(&one.name, &one.uid);
    assert_eq!(running.finish(), []);
    assert!(table.awaits_list());
    let next = table.begin_relist();
    assert_eq!(table.upsert(&one), Outcome::Modified);
    assert_eq!(next.finish(), []);
    assert!(!table.awaits_list());
}
