//! Models split into several files.

mod support;

use lockstep_import::gguf::Gguf;
use lockstep_import::package::{MemorySink, ModelFile};
use support::{File, Meta, split, tiny};

fn id_of(model: &ModelFile<'_>) -> lockstep_exact::Digest {
    model.import(&mut MemorySink::default(), |_| ()).unwrap().id()
}

fn opened(files: &[&File]) -> Result<lockstep_exact::Digest, String> {
    let bytes: Vec<Vec<u8>> = files.iter().map(|file| file.bytes()).collect();
    let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    ModelFile::open_shards(&slices).map(|model| id_of(&model)).map_err(|error| error.to_string())
}

#[test]
fn a_split_model_has_the_id_of_the_whole_in_any_order() {
    let whole = tiny().bytes();
    let id = id_of(&ModelFile::open(&whole).unwrap());
    let [a, b, c] = split(&tiny());
    assert_eq!(opened(&[&a, &b, &c]), Ok(id));
    assert_eq!(opened(&[&c, &a, &b]), Ok(id));
    assert_eq!(opened(&[&tiny()]), Ok(id));
    let alone = b.bytes();
    assert!(ModelFile::open(&alone).is_err());
}

#[test]
fn files_that_are_not_all_parts_of_one_model_are_refused() {
    let [a, b, c] = split(&tiny());
    let refused = |files: &[&File]| opened(files).unwrap_err();
    assert_eq!(refused(&[]), "not a GGUF file: it is empty: download it again");
    assert_eq!(refused(&[&a, &b]), "file 1 is one of 3, but 2 are given");
    assert_eq!(refused(&[&tiny(), &b, &c]), "file 1 is one of 1, but 3 are given");
    assert_eq!(refused(&[&a, &b, &b]), "part 3 of 3 is missing; another part is given twice");
    let changed = |file: &File, change: &dyn Fn(&mut File)| {
        let mut file = file.clone();
        change(&mut file);
        file
    };
    let seventh = changed(&b, &|f| f.set("split.no", Meta::U32(7)));
    assert_eq!(
        refused(&[&a, &seventh, &c]),
        "file 2 is part 7 by its own count from 0; there are 3 parts"
    );
    let nameless = changed(&b, &|f| f.remove("split.no"));
    assert_eq!(
        refused(&[&a, &nameless, &c]),
        "file 2 is part no by its own count from 0; there are 3 parts"
    );
    let other = changed(&c, &|f| f.set("llama.context_length", Meta::U32(64)));
    assert_eq!(
        refused(&[&a, &b, &other]),
        "part 3 of the split model contradicts part 1, or adds to it, in \"llama.context_length\""
    );
    let fewer = changed(&c, &|f| drop(f.tensors.pop()));
    assert_eq!(refused(&[&a, &b, &fewer]), "the parts hold 19 tensors; the first says 20");
    let again = changed(&c, &|f| f.tensors[0].name = "blk.0.attn_q.weight".to_owned());
    assert_eq!(refused(&[&a, &b, &again]), "tensor \"blk.0.attn_q.weight\" occurs twice");
    let mut broken = a.clone();
    broken.version = 1;
    let error = refused(&[&c, &b, &broken]);
    assert!(error.starts_with("in file 3 of the split model: GGUF version 1"), "{error}");
}

#[test]
fn a_joined_model_says_nothing_about_files() {
    let bytes = split(&tiny()).map(|file| file.bytes());
    let gguf = Gguf::parse_shards(&bytes.each_ref().map(Vec::as_slice)).unwrap();
    assert!(gguf.metadata().all(|(key, _)| !key.starts_with("split.")));
    assert_eq!(gguf.tensors().len(), tiny().tensors.len());
}
