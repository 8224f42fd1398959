//! The store's promises, on the tiny model.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use lockstep_exact::manifest::Manifest;
use lockstep_testing::tiny_model::TinyModel;

use super::*;
use crate::testdir::TestDir;

fn store(dir: &TestDir) -> Store {
    Store::open(&Home::at(dir.path()), 0).expect("a store")
}

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

/// Puts the tiny model of a seed under a name.
fn add(store: &Store, text: &str, seed: u64) -> Manifest {
    let tiny = TinyModel::new(seed);
    let import = store.begin().expect("free");
    for index in 0..tiny.manifest.blobs.len() as u32 {
        let blob = import.put(tiny.blob(index).as_slice()).expect("stored");
        assert_eq!(blob, tiny.manifest.blobs[index as usize]);
    }
    let id = import.publish(&name(text), &tiny.manifest, "a test").expect("published");
    assert_eq!(id, tiny.manifest.id());
    tiny.manifest
}

fn files(store: &Store, sub: &str) -> usize {
    fs::read_dir(store.root.join(sub)).expect("a directory").count()
}

#[test]
fn a_model_comes_back_as_it_went_in() {
    let dir = TestDir::new("store-round");
    let store = store(&dir);
    let manifest = add(&store, "tiny", 1);
    let record = store.record(&name("tiny")).expect("there");
    assert_eq!(record.source, "a test".into());
    assert_eq!(store.manifest(&record).expect("good"), manifest);
    let open = store.open_span(&manifest, 0..manifest.layers.len() as u32).expect("good");
    let tiny = TinyModel::new(1);
    for index in 0..manifest.blobs.len() as u32 {
        let blob = open.get(index).expect("opened");
        assert_eq!(blob.as_slice(), tiny.blob(index).as_slice());
        assert!(blob.as_slice().as_ptr().addr().is_multiple_of(64));
    }
    assert_eq!(files(&store, "tmp"), 0);
}

#[cfg(unix)]
#[test]
fn stored_files_can_not_be_written_and_directories_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TestDir::new("store-modes");
    let store = store(&dir);
    add(&store, "tiny", 1);
    let mode = |path: &Path| fs::metadata(path).expect("stat").permissions().mode() & 0o777;
    for entry in fs::read_dir(store.blobs()).expect("dir") {
        assert_eq!(mode(&entry.expect("entry").path()), 0o400);
    }
    for sub in [store.blobs(), store.records(), store.temporary()] {
        assert_eq!(mode(&sub), 0o700);
    }
}

#[test]
fn only_the_blobs_of_a_span_are_looked_at() {
    let dir = TestDir::new("store-span");
    let store = store(&dir);
    let manifest = add(&store, "tiny", 1);
    let layers = manifest.layers.len() as u32;
    let (mine, theirs) = (span_blobs(&manifest, 0..1), span_blobs(&manifest, 1..layers));
    for index in theirs.difference(&mine) {
        fs::remove_file(store.blob_path(&manifest.blobs[*index as usize].digest)).expect("gone");
    }
    store.open_span(&manifest, 0..1).expect("mine are here");
    let error = store.open_span(&manifest, 1..layers).expect_err("theirs are not");
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

#[test]
fn damage_is_named_and_repaired_by_importing_again() {
    let dir = TestDir::new("store-damage");
    let store = store(&dir);
    let manifest = add(&store, "tiny", 1);
    let blob = manifest.blobs[manifest.layers[0].blob as usize];
    let path = store.blob_path(&blob.digest);
    for cut in [0, 1] {
        let mut bytes = fs::read(&path).expect("read");
        bytes[100] ^= 1;
        bytes.truncate(bytes.len() - cut);
        fs::remove_file(&path).expect("read-only files are replaced, not written");
        fs::write(&path, bytes).expect("damaged");
        let error = store.open_blob(&blob).expect_err("damaged");
        assert!(matches!(&error, StoreError::Damaged { path: named } if *named == path), "{error}");
        add(&store, "tiny", 1);
        store.open_blob(&blob).expect("repaired");
    }
}

#[test]
fn removing_a_model_keeps_what_another_one_uses() {
    let dir = TestDir::new("store-remove");
    let store = store(&dir);
    let kept = add(&store, "kept", 1);
    add(&store, "copy", 1);
    let removed = store.remove(&name("copy")).expect("removed");
    assert_eq!(removed, Removed::default(), "all its blobs are still used");
    let other = add(&store, "other", 2);
    let distinct = |m: &Manifest| m.blobs.iter().map(|b| b.digest).collect::<BTreeSet<_>>();
    let only_other = distinct(&other).difference(&distinct(&kept)).count() + 1;
    let removed = store.remove(&name("other")).expect("removed");
    assert_eq!(removed.blobs, only_other, "with its manifest");
    assert_eq!(store.models().expect("readable").len(), 1);
    store.open_blobs(&kept, 0..kept.blobs.len() as u32).expect("untouched");
    let error = store.remove(&name("other")).expect_err("gone");
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
}

#[test]
fn no_blob_is_removed_while_another_model_can_not_be_read() {
    let dir = TestDir::new("store-careful");
    let store = store(&dir);
    let broken = add(&store, "broken", 1);
    add(&store, "other", 2);
    let before = files(&store, "blobs");
    fs::remove_file(store.blob_path(&broken.id())).expect("lose the manifest");
    store.sweep().expect_err("what does `broken` use?");
    let removed = store.remove(&name("other")).expect("its name can go");
    assert_eq!(removed, Removed::default(), "what does `broken` use?");
    assert_eq!(files(&store, "blobs"), before - 1);
    assert_eq!(store.models().expect("readable").len(), 1);
    let removed = store.remove(&name("broken")).expect("the broken one itself can go");
    assert!(removed.blobs > 0, "with what nobody uses any more");
    assert_eq!(files(&store, "blobs"), 0);
}

#[test]
fn a_broken_import_leaves_no_model_and_its_blobs_are_swept() {
    let dir = TestDir::new("store-broken");
    let store = store(&dir);
    let manifest = add(&store, "tiny", 1);
    let import = store.begin().expect("free");
    import.put(b"half a model").expect("stored");
    let mut cut_off = import.writer().expect("file");
    cut_off.write_all(b"a blob that is never finished").expect("written");
    drop(cut_off);
    drop(import);
    assert_eq!(files(&store, "tmp"), 0);
    assert_eq!(store.models().expect("readable").len(), 1);
    assert_eq!(store.sweep().expect("swept"), Removed { blobs: 1, bytes: 12 });
    store.open_blobs(&manifest, 0..manifest.blobs.len() as u32).expect("untouched");
}

#[test]
fn a_model_without_all_its_blobs_gets_no_name() {
    let dir = TestDir::new("store-incomplete");
    let store = store(&dir);
    let tiny = TinyModel::new(1);
    let import = store.begin().expect("free");
    let error = import.publish(&name("tiny"), &tiny.manifest, "").expect_err("no blobs");
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert!(store.models().expect("readable").is_empty());
}

#[test]
fn what_dead_writers_left_is_removed_by_the_next_import_that_runs_alone() {
    let dir = TestDir::new("store-clean");
    let first = store(&dir);
    let manifest = add(&first, "tiny", 1);
    let good = files(&first, "blobs");
    fs::write(first.temporary().join("dead"), b"left by a crash").expect("write");
    fs::write(first.records().join(".new-0123"), b"left by a crash").expect("write");
    let orphan = first.blob_path(&Digest::of(b"x"));
    let import = first.begin().expect("free");
    assert_eq!((files(&first, "tmp"), files(&first, "models")), (0, 1));
    let mut living = import.writer().expect("file");
    living.write_all(b"still at it").expect("written");
    fs::write(&orphan, b"x").expect("as a killed import leaves it");
    let second = store(&dir);
    drop(second.begin().expect("imports don't exclude each other"));
    assert_eq!((files(&second, "tmp"), files(&second, "blobs")), (1, good + 1));
    let blob = living.finish().expect("not disturbed");
    second.open_blob(&blob).expect("stored");
    drop(import);
    assert_eq!(second.leftovers().expect("counted"), Removed { blobs: 2, bytes: 12 });
    let import = second.begin().expect("free");
    assert_eq!(files(&second, "blobs"), good, "no model uses the two");
    drop(import);
    second.open_blobs(&manifest, 0..manifest.blobs.len() as u32).expect("untouched");
}

#[test]
fn a_taken_name_is_not_given_to_another_model_unless_it_is_replaced() {
    let dir = TestDir::new("store-taken");
    let store = store(&dir);
    let first = add(&store, "model", 1);
    add(&store, "model", 1);
    let second = TinyModel::new(2);
    let put = |import: &Import<'_>| {
        for index in 0..second.manifest.blobs.len() as u32 {
            import.put(second.blob(index).as_slice()).expect("stored");
        }
    };
    let import = store.begin().expect("free");
    put(&import);
    let error = import.publish(&name("model"), &second.manifest, "b").expect_err("taken");
    let StoreError::NameTaken { id, .. } = error else { panic!("{error}") };
    assert_eq!(id, first.id());
    assert!(error.to_string().contains("--name") && error.to_string().contains("--replace"));
    assert_eq!(store.record(&name("model")).expect("there").manifest, first.id());
    let import = store.begin().expect("free");
    put(&import);
    import.replace(&name("model"), &second.manifest, "b").expect("replaced");
    assert_eq!(store.record(&name("model")).expect("there").manifest, second.manifest.id());
    let distinct: BTreeSet<_> = second.manifest.blobs.iter().map(|blob| blob.digest).collect();
    assert_eq!(files(&store, "blobs"), distinct.len() + 1, "nothing of the first is left");
    store.remove(&name("model")).expect("removed");
    assert_eq!(files(&store, "blobs"), 0);
}

#[test]
fn where_a_model_came_from_is_kept_with_its_digest() {
    let dir = TestDir::new("store-source");
    let store = store(&dir);
    let manifest = add(&store, "tiny", 1);
    let source = Source { text: "m.gguf".to_owned(), digest: Some(Digest::of(b"m")) };
    let import = store.begin().expect("free");
    import.publish(&name("tiny"), &manifest, source.clone()).expect("the same model");
    assert_eq!(store.record(&name("tiny")).expect("there").source, source);
}

#[test]
fn what_is_wrong_with_a_models_blobs_is_told() {
    let dir = TestDir::new("store-deep");
    let store = store(&dir);
    let manifest = add(&store, "tiny", 1);
    assert!(store.damage(&manifest, true).is_empty());
    let path = |layer: usize| {
        store.blob_path(&manifest.blobs[manifest.layers[layer].blob as usize].digest)
    };
    let mut bytes = fs::read(path(0)).expect("read");
    bytes[100] ^= 1;
    fs::remove_file(path(0)).expect("removed");
    fs::write(path(0), bytes).expect("damaged");
    fs::remove_file(path(1)).expect("removed");
    let wrong = store.damage(&manifest, false);
    assert!(matches!(wrong.as_slice(), [StoreError::Missing { .. }]), "{wrong:?}");
    let wrong = store.damage(&manifest, true);
    assert!(
        matches!(wrong.as_slice(), [StoreError::Damaged { .. }, StoreError::Missing { .. }]),
        "{wrong:?}"
    );
}

/// As root every file can be written to, whatever its mode: there only reading is shown.
#[cfg(unix)]
#[test]
fn a_home_that_can_only_be_read_is_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TestDir::new("store-read-only");
    let writable = store(&dir);
    let manifest = add(&writable, "tiny", 1);
    let lock = writable.lock_path();
    let modes =
        [(lock.clone(), 0o400), (writable.temporary(), 0o500), (dir.path().to_owned(), 0o500)];
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    modes.iter().for_each(|(path, mode)| set(path, *mode));
    let is_refused = fs::OpenOptions::new().append(true).open(&lock).is_err();
    let read_only = store(&dir);
    let record = read_only.record(&name("tiny")).expect("readable");
    assert_eq!(read_only.manifest(&record).expect("readable"), manifest);
    read_only.open_blobs(&manifest, 0..manifest.blobs.len() as u32).expect("readable");
    assert_eq!(read_only.is_writable(), !is_refused);
    if is_refused {
        let error = read_only.begin().expect_err("nothing can be added");
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
        let error = read_only.remove(&name("tiny")).expect_err("nor removed");
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    }
    modes.iter().for_each(|(path, _)| set(path, 0o700));
}

#[test]
fn the_system_s_refusals_to_write_are_known() {
    for (kind, expected) in [
        (io::ErrorKind::ReadOnlyFilesystem, true),
        (io::ErrorKind::PermissionDenied, true),
        (io::ErrorKind::NotFound, false),
        (io::ErrorKind::StorageFull, false),
    ] {
        assert_eq!(home::is_refusal(&kind.into()), expected, "{kind}");
    }
}

#[test]
fn a_removal_waits_for_imports_only_so_long() {
    let dir = TestDir::new("store-busy");
    let store = Store { patience: Duration::ZERO, ..store(&dir) };
    add(&store, "tiny", 1);
    let import = store.begin().expect("free");
    let second = store.begin().expect("imports don't exclude each other");
    let error = store.remove(&name("tiny")).expect_err("an import runs");
    assert!(matches!(error, StoreError::Busy), "{error}");
    drop((import, second));
    store.remove(&name("tiny")).expect("free");
}

#[test]
fn many_writers_of_one_model_end_with_one_good_copy() {
    let dir = TestDir::new("store-race");
    let store = store(&dir);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| add(&store, "tiny", 1));
        }
    });
    let record = store.record(&name("tiny")).expect("there");
    let manifest = store.manifest(&record).expect("good");
    store.open_blobs(&manifest, 0..manifest.blobs.len() as u32).expect("good");
    assert_eq!(files(&store, "tmp"), 0);
    let distinct: BTreeSet<_> = manifest.blobs.iter().map(|blob| blob.digest).collect();
    assert_eq!(files(&store, "blobs"), distinct.len() + 1);
}

#[test]
fn a_full_disk_is_noticed_before_a_byte_is_written() {
    let dir = TestDir::new("store-full");
    let store = Store { reserve: u64::MAX, ..store(&dir) };
    let error = store.begin().expect("free").put(b"x").expect_err("full");
    assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
    assert_eq!(files(&store, "tmp") + files(&store, "blobs"), 0);
}

#[test]
fn a_record_that_makes_no_sense_is_named_with_its_line() {
    let dir = TestDir::new("store-record");
    let store = store(&dir);
    add(&store, "tiny", 1);
    let path = store.record_path(&name("tiny"));
    for (text, word) in [
        ("manifest = 3", "line 1"),
        ("manifest = \"00\"\nmanifest_bytes = 1\nsource = \"\"", "not a digest"),
    ] {
        fs::write(&path, text).expect("write");
        let error = store.record(&name("tiny")).expect_err("wrong").to_string();
        assert!(error.contains(word) && error.contains("tiny.toml"), "{error}");
    }
}

#[test]
fn unnamed_bytes_are_mapped_and_leave_no_file() {
    let dir = TestDir::new("unnamed");
    let store = store(&dir);
    let map = store.map_unnamed(&[b"some ", b"", b"weights"]).expect("maps");
    assert_eq!(&map[..], b"some weights");
    assert_eq!(map.digest(), Digest::of(b"some weights"));
    assert_eq!((files(&store, "tmp"), files(&store, "blobs")), (0, 0));
}
