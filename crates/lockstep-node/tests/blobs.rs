//! Files of a model over real sockets: a node without any fetches just what a span needs, from
//! several that hold them, in spite of one that lies; and whoever asks for more than is shared gets
//! nothing.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_node::driver::{FetchError, Fetched, Node, fetch, wanted};
use lockstep_node::home::Home;
use lockstep_node::store::{ModelName, ModelRecord, Store, span_blobs};
use lockstep_node::transport::{AllowList, Class, Endpoint, Identity, PeerAddr};
use lockstep_proto::frame::{BlobRefusal, Frame as _, FromHolder, ToHolder};
use lockstep_proto::limits::LENGTH_BYTES;
use lockstep_proto::swarm::fetch::{Fault, Holder, Length, Wanted};
use lockstep_testing::tiny_model::TinyModel;
use tokio::time::timeout;

/// No test waits longer than this for anything.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A folder that is removed when it goes out of scope.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = path.join(format!("blobs-{name}-{}", std::process::id()));
        fs::remove_dir_all(&path).ok();
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> Store {
        Store::open(&Home::at(&self.0), 0).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

async fn endpoint() -> Endpoint {
    let bind: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Endpoint::bind(&Identity::generate(), bind, AllowList::Anyone).await.unwrap()
}

fn name() -> ModelName {
    "tiny".parse().unwrap()
}

/// A node that holds all of a tiny model and shares it.
async fn sharing(dir: &Dir, model: &TinyModel) -> (Node, Store, ModelRecord, PeerAddr) {
    let store = dir.store();
    let import = store.begin().unwrap();
    for index in 0..model.manifest.blobs.len() as u32 {
        import.put(model.blob(index).as_slice()).unwrap();
    }
    import.publish(&name(), &model.manifest, "a test").unwrap();
    let record = store.record(&name()).unwrap();
    let endpoint = endpoint().await;
    let peer = endpoint.addr();
    let mut node = Node::new(Arc::new(endpoint));
    node.share(&store, (&record, &model.manifest), None).unwrap();
    (node, store, record, peer)
}

fn holder(peer: &PeerAddr, manifest: &Manifest) -> Holder {
    let all = manifest.blobs.iter().map(|blob| blob.digest).chain([manifest.id()]);
    Holder { node: peer.id, address: peer.text(), likely: Arc::new(all.collect()) }
}

/// Fetches into a store, and returns how it ended and whom it dropped.
async fn fetched(
    store: &Store,
    wanted: &[Wanted],
    holders: Vec<Holder>,
) -> (Result<(), FetchError>, Vec<Fetched>) {
    let node = Node::new(Arc::new(endpoint().await));
    let mut told = Vec::new();
    let mut tell = |progress| told.push(progress);
    let holders = move || holders.clone();
    let (links, clock) = (node.links().endpoint(), node.clock());
    let fetching = fetch(links, clock, store, (wanted, 7), &holders, None, &mut tell);
    let ended = timeout(WATCHDOG, fetching).await.expect("it ends");
    node.close().await;
    (ended, told)
}

fn blobs_in(dir: &Dir) -> BTreeSet<Digest> {
    let entries = fs::read_dir(dir.0.join("blobs")).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries.map(|entry| Digest::parse(name(entry).to_str().unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_an_empty_store_gets_the_manifest_and_the_files_of_its_span_and_no_others() {
    let model = TinyModel::new(3);
    let dirs = [Dir::new("a"), Dir::new("b"), Dir::new("empty")];
    let (first, _, record, one) = sharing(&dirs[0], &model).await;
    let (second, _, _, two) = sharing(&dirs[1], &model).await;
    let store = dirs[2].store();
    let holders = [&one, &two].map(|peer| holder(peer, &model.manifest)).to_vec();
    let manifest = Wanted { blob: record.manifest, len: Length::AtMost(1 << 20) };
    let (ended, _) = fetched(&store, &[manifest], holders.clone()).await;
    ended.expect("the manifest comes");
    let bytes = fs::read(dirs[2].0.join("blobs").join(record.manifest.to_string())).unwrap();
    assert_eq!(Manifest::parse(&bytes).unwrap(), model.manifest);
    let import = store.begin().unwrap();
    import.publish_part(&name(), &model.manifest, "peers").unwrap();
    assert!(store.record(&name()).unwrap().is_part);
    let indices = span_blobs(&model.manifest, 1..2);
    let missing = store.missing(&model.manifest, &indices);
    assert_eq!(missing.len(), indices.len());
    let (ended, told) = fetched(&store, &wanted(&missing), holders).await;
    ended.expect("the files come");
    let last = told.last().expect("progress is told");
    assert_eq!(last.bytes, missing.iter().map(|blob| blob.len).sum::<u64>());
    let expected = missing.iter().map(|blob| blob.digest).chain([record.manifest]);
    assert_eq!(blobs_in(&dirs[2]), expected.collect());
    store.open_span(&model.manifest, 1..2).expect("checked against their digests");
    store.open_span(&model.manifest, 0..1).expect_err("they are not here");
    // Nobody takes them away as files that no model uses.
    store.sweep().unwrap();
    assert!(store.missing(&model.manifest, &indices).is_empty());
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_with_a_damaged_file_gives_nothing_of_it_and_a_liar_is_named() {
    let model = TinyModel::new(4);
    let dirs = [Dir::new("good"), Dir::new("damaged"), Dir::new("wants")];
    let (first, _, _, one) = sharing(&dirs[0], &model).await;
    let (second, _, _, two) = sharing(&dirs[1], &model).await;
    let blob = model.manifest.blobs[model.manifest.layers[1].blob as usize];
    let path = dirs[1].0.join("blobs").join(blob.digest.to_string());
    let mut bytes = fs::read(&path).unwrap();
    bytes[11] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    // A liar of our own: it answers whatever is asked with bytes of its own.
    let liar = endpoint().await;
    let lying = liar.addr();
    let lies = tokio::spawn(async move {
        while let Some(mut link) = liar.accept().await {
            while let Ok(Some(body)) = link.receiver.recv().await {
                let blob = match ToHolder::from_body(&body).unwrap() {
                    ToHolder::Outline { blob } | ToHolder::Piece { blob, .. } => blob,
                };
                let values = vec![Digest([5; 32])];
                let wire = FromHolder::Outline { blob, len: 9, values }.to_wire().unwrap();
                link.sender.post(wire[LENGTH_BYTES..].to_vec()).ok();
            }
        }
    });
    let store = dirs[2].store();
    let alone = [&two, &lying].map(|peer| holder(peer, &model.manifest)).to_vec();
    let (ended, told) = fetched(&store, &wanted(&[blob]), alone).await;
    let Err(FetchError::GivenUp(given_up)) = ended else { panic!("{ended:?}") };
    let faults: Vec<_> = given_up.faults.clone();
    assert!(faults.contains(&(lying.id, Fault::WrongBytes { blob: blob.digest })), "{given_up}");
    assert!(faults.contains(&(two.id, Fault::Refused(BlobRefusal::NotHeld))), "{given_up}");
    assert!(told.iter().any(|told| told.dropped.is_some_and(|(node, _)| node == lying.id)));
    assert!(blobs_in(&dirs[2]).is_empty());
    let all = [&two, &lying, &one].map(|peer| holder(peer, &model.manifest)).to_vec();
    let (ended, _) = fetched(&store, &wanted(&[blob]), all).await;
    ended.expect("the honest one gives it");
    store.open_blob(&blob).expect("checked");
    lies.abort();
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_store_beside_the_shared_model_is_given_to_nobody() {
    let model = TinyModel::new(5);
    let dir = Dir::new("private");
    let (node, store, _, peer) = sharing(&dir, &model).await;
    let secret = store.begin().unwrap().put(b"another model's file").unwrap();
    let asking = endpoint().await;
    let mut link = asking.connect(&peer, Class::Blobs).await.unwrap();
    for question in [
        ToHolder::Outline { blob: secret.digest },
        ToHolder::Piece { blob: secret.digest, index: 0 },
    ] {
        link.sender.post(question.to_bytes()).unwrap();
        let answer = timeout(WATCHDOG, link.receiver.recv()).await.unwrap().unwrap().unwrap();
        let refused = FromHolder::Refused { blob: secret.digest, why: BlobRefusal::NotHeld };
        assert_eq!(FromHolder::from_body(&answer), Ok(refused));
    }
    asking.close().await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_before_anything_is_asked() {
    let model = TinyModel::new(6);
    let dirs = [Dir::new("has"), Dir::new("full")];
    let (node, _, _, peer) = sharing(&dirs[0], &model).await;
    let store = Store::open(&Home::at(&dirs[1].0), u64::MAX / 2).unwrap();
    let all = wanted(&model.manifest.blobs);
    let (ended, told) = fetched(&store, &all, vec![holder(&peer, &model.manifest)]).await;
    let error = ended.expect_err("there is no room");
    assert!(error.to_string().contains("not enough disk space"), "{error}");
    assert!(told.is_empty());
    // Nor for what no number counts.
    let long = |number| Wanted { blob: Digest([number; 32]), len: Length::Exactly(u64::MAX / 2) };
    let store = Store::open(&Home::at(&dirs[1].0), 0).unwrap();
    let long = [long(1), long(2), long(3)];
    let (ended, _) = fetched(&store, &long, vec![holder(&peer, &model.manifest)]).await;
    let error = ended.expect_err("no disk has the room");
    assert!(error.to_string().contains("not enough disk space"), "{error}");
    node.close().await;
}
