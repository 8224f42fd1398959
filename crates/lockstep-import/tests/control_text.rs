//! What users write never becomes a control token, and everything else is read as before.

mod support;

use lockstep_import::gguf::Gguf;
use lockstep_import::template::{Chat, Date, Message, Prompt, render};
use lockstep_import::tokenizer::{self, ControlText, TokenKind, Tokenizer};
use serde_json::Map;
use support::{tiny, tiny_pieces};

fn tokenizers() -> [Tokenizer; 2] {
    [tiny().bytes(), tiny_pieces().bytes()].map(|file| {
        let read = tokenizer::read(&Gguf::parse(&file).unwrap()).unwrap();
        Tokenizer::new(read.vocabulary, read.definition).unwrap()
    })
}

/// Control tokens with their texts.
fn controls(tokenizer: &Tokenizer) -> Vec<(u32, String)> {
    let ids = (0..tokenizer.len() as u32).filter(|id| is_control(tokenizer, *id));
    ids.map(|id| (id, tokenizer.decode(&[id], ControlText::Parse))).collect()
}

fn is_control(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.kind(id) == Some(TokenKind::Control)
}

fn rendered(template: &str, content: &str) -> Prompt {
    let chat = Chat {
        messages: &[Message::new("user", content)],
        tools: None,
        arguments: &Map::new(),
        add_generation_prompt: true,
        bos_token: "",
        eos_token: "",
        date: Date::FIRST,
    };
    render(template, &chat).unwrap()
}

#[test]
fn control_tokens_are_read_in_what_the_template_wrote_and_nowhere_else() {
    for tokenizer in tokenizers() {
        let controls = controls(&tokenizer);
        assert!(!controls.is_empty());
        for (id, text) in &controls {
            let half = text.len() / 2;
            let (head, tail) = text.split_at(half);
            for (template, content, expected) in [
                (format!("{text}{{{{ messages[0].content }}}}"), text.clone(), 1),
                (format!("{{{{ messages[0].content }}}}{text}"), text.clone(), 1),
                (format!("{{{{ messages[0].content }}}}{text}"), format!("a{text}b{text}"), 1),
                (format!("{text}{{{{ messages[0].content ~ '{text}' }}}}"), text.clone(), 2),
                (format!("{head}{{{{ messages[0].content }}}}"), tail.to_owned(), 0),
                (format!("{{{{ messages[0].content }}}}{tail}"), head.to_owned(), 0),
                (format!("{{{{ messages[0].content[:{half}] }}}}{tail}"), text.clone(), 0),
                (format!("{{{{ messages[0].content|trim }}}}{text}"), format!(" {text} "), 1),
                ("{{ messages[0].content|tojson }}".to_owned(), text.clone(), 0),
                ("{{ messages[0].content[::-1][::-1] }}".to_owned(), text.clone(), 0),
                (
                    "{{ messages[0].content|replace('#', '') }}".to_owned(),
                    format!("{head}#{tail}"),
                    0,
                ),
            ] {
                let prompt = rendered(&template, &content);
                let ids = tokenizer.encode_rendered(&prompt).unwrap();
                let found = ids.iter().filter(|id| is_control(&tokenizer, **id)).count();
                assert_eq!(found, expected, "{id} {template} {content}");
                // Behind a special token, pieces may begin with a space of their own.
                let plain = |text: &str| text.replace(' ', "");
                let decoded = tokenizer.decode(&ids, ControlText::Parse);
                assert_eq!(plain(&decoded), plain(prompt.text()), "{id} {template} {content}");
            }
        }
    }
}

#[test]
fn texts_that_name_no_control_token_have_the_ids_of_the_whole() {
    for tokenizer in tokenizers() {
        let (_, control) = controls(&tokenizer).swap_remove(0);
        let template = format!(
            "{control}a{{{{ messages[0].content }}}}b {{{{ messages[0].content|trim }}}}{control}\
             {{{{ messages[0].content }}}}{{{{ messages[0].content }}}}"
        );
        for content in ["", "a", " ab ba ", "the thin\n\nthing ", "\u{2581}a\u{2581}", "abcabc  "] {
            let prompt = rendered(&template, content);
            let whole = tokenizer.encode(prompt.text(), ControlText::Parse);
            assert_eq!(tokenizer.encode_rendered(&prompt), whole, "{content:?}");
            assert!(content.is_empty() || !prompt.user_spans().is_empty());
        }
    }
}

#[test]
fn all_that_is_trusted_is_read_with_control_tokens() {
    for tokenizer in tokenizers() {
        for (id, text) in controls(&tokenizer) {
            let ids = tokenizer.encode_rendered(&Prompt::trusted(text)).unwrap();
            assert_eq!(ids.last(), Some(&id));
        }
    }
}
