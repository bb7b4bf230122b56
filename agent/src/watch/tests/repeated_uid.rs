//! A uid that several objects of one type have, as a faulty aggregated API gives it, or an etcd that was put together from
//! backups.

use super::*;

fn twin(namespace: &str, name: &str, version: u64) -> Value {
    let mut twin = object(namespace, name, version);
    twin["metadata"]["uid"] = "5f0c1b9e-7d0a-4f4e-9a62-0c3f1d2e4b5a".into();
    twin
}

fn body(scene: &Scene, namespace: &str, name: &str) -> Value {
    let object = scene.table.get_named(&ObjectName::new(Some(namespace), name)).unwrap();
    serde_json::from_slice(&object.body.unwrap()).unwrap()
}

#[tokio::test]
async fn objects_of_one_uid_are_kept_told_and_deleted_apart() {
    let all = [twin("n", "a", 1), twin("n", "b", 2), twin("m", "a", 3), object("n", "other", 4)];
    let scene = Scene::new(vec![
        page(5, "", &all),
        page(6, "", &all),
        page(7, "", &[twin("n", "b", 2), twin("m", "a", 9), object("n", "other", 4)]),
    ]);
    scene.list().await.unwrap();
    assert_eq!(scene.drain(), ["upsert m/a", "upsert n/a", "upsert n/b", "upsert n/other"]);
    for (namespace, name, version) in [("n", "a", "1"), ("n", "b", "2"), ("m", "a", "3")] {
        let body = body(&scene, namespace, name);
        assert_eq!((&body["metadata"]["namespace"], &body["metadata"]["name"]), (&namespace.into(), &name.into()));
        assert_eq!(body["data"]["v"], version);
    }
    scene.list().await.unwrap();
    assert_eq!(scene.drain(), [""; 0], "nothing has changed");
    scene.list().await.unwrap();
    assert_eq!(scene.drain(), ["delete n/a", "upsert m/a"]);
    assert_eq!(scene.names(), ["m/a", "n/b", "n/other"]);
}

#[tokio::test]
async fn an_event_about_one_of_them_says_nothing_of_the_others() {
    let events = [
        event("MODIFIED", twin("n", "a", 11)),
        event("DELETED", twin("n", "b", 12)),
        event("DELETED", twin("n", "c", 13)),
    ];
    let scene = Scene::new([vec![page(10, "", &[twin("n", "a", 1), twin("n", "b", 2)])], stream(&events)].concat());
    scene.list().await.unwrap();
    assert_eq!(scene.drain(), ["upsert n/a", "upsert n/b"]);
    let _end = scene.watch().await;
    assert_eq!(scene.drain(), ["delete n/b", "upsert n/a"], "`c` was never there");
    assert_eq!(scene.names(), ["n/a"]);
}
