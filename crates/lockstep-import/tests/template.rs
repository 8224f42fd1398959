//! Chat templates as models bring them, and as an attacker would.

use lockstep_import::limits::{MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES};
use lockstep_import::template::{Chat, Date, Message, TemplateError, render};
use serde_json::Value;

fn messages() -> Vec<Message> {
    vec![Message::new("system", "Be brief."), Message::new("user", "Hi <b>&</b>\n")]
}

fn rendered(source: &str) -> Result<String, TemplateError> {
    rendered_with(source, &messages())
}

fn rendered_with(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
    let date = Date::parse("2026-11-23").unwrap();
    let (bos_token, eos_token) = ("<s>", "</s>");
    render(source, &Chat { messages, add_generation_prompt: true, bos_token, eos_token, date })
}

#[track_caller]
fn renders(source: &str, expected: &str) {
    assert_eq!(rendered(source).as_deref(), Ok(expected));
}

/// The templates of model families. `golden/templates.py` says how the golden texts were made.
const FAMILIES: [(&str, &str); 8] = [
    ("gemma3", include_str!("golden/templates/gemma3.jinja")),
    ("llama3", include_str!("golden/templates/llama3.jinja")),
    ("llama3.2", include_str!("golden/templates/llama3.2.jinja")),
    ("mistral", include_str!("golden/templates/mistral.jinja")),
    ("mistral-v3", include_str!("golden/templates/mistral-v3.jinja")),
    ("phi3", include_str!("golden/templates/phi3.jinja")),
    ("qwen2.5", include_str!("golden/templates/qwen2.5.jinja")),
    ("qwen3", include_str!("golden/templates/qwen3.jinja")),
];

#[test]
fn templates_of_families_render_as_golden() {
    let golden: Value = serde_json::from_str(include_str!("golden/templates.json")).unwrap();
    let cases = golden.as_array().unwrap();
    assert_eq!(cases.len(), FAMILIES.len() * 14);
    for case in cases {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let turn = |turn: &Value| Message::new(text(&turn[0]), text(&turn[1]));
        let messages: Vec<Message> = case["chat"].as_array().unwrap().iter().map(turn).collect();
        let (bos_token, eos_token) = (text(&case["bos"]), text(&case["eos"]));
        let chat = Chat {
            messages: &messages,
            add_generation_prompt: case["prompt"].as_bool().unwrap(),
            bos_token: &bos_token,
            eos_token: &eos_token,
            date: Date::parse("2026-11-23").unwrap(),
        };
        let family = case["family"].as_str().unwrap();
        let source = FAMILIES.iter().find(|(name, _)| *name == family).unwrap().1;
        let expected = match case.get("refused") {
            Some(message) => Err(TemplateError::Refused { message: text(message) }),
            None => Ok(text(&case["text"])),
        };
        assert_eq!(render(source, &chat), expected, "{family} {messages:?}");
    }
}

#[test]
fn blocks_take_their_line_break_and_leading_space_with_them() {
    let source = "{% for m in messages %}\n    {% if true %}\n[{{ m.role }}]\n    {% endif %}\n\
                  {% endfor %}\nend";
    renders(source, "[system]\n[user]\nend");
}

#[test]
fn python_string_methods_and_slices_work() {
    renders("{{ messages[1]['content'].strip() }}", "Hi <b>&</b>");
    renders("{{ messages[0].content.split(' ')[-1].upper() }}", "BRIEF.");
    renders("{% if messages[0].role.startswith('sys') %}yes{% endif %}", "yes");
    renders("{% for m in messages[::-1] %}{{ m.role }} {% endfor %}", "user system ");
    renders("{% for m in messages[1:] %}{{ m.role }}{% endfor %}", "user");
    renders(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}\
             {% endfor %}{{ ns.n }}",
        "2",
    );
}

#[test]
fn json_is_written_as_python_writes_it() {
    renders("{{ messages[1] | tojson }}", r#"{"role": "user", "content": "Hi <b>&</b>\n"}"#);
    renders("{{ [1, 'ä', none, true] | tojson }}", r#"[1, "ä", null, true]"#);
    renders("{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}");
}

#[test]
fn tokens_date_and_absent_tools_are_visible() {
    renders("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}", "<s></s>True");
    renders("{{ strftime_now('%d %b %Y') }}", "23 Nov 2026");
    renders("{% if tools is not none %}tools{% else %}none{% endif %}", "none");
    renders("{% if not documents and not custom %}none{% endif %}", "none");
}

#[test]
fn a_templates_own_refusal_is_told_in_its_words() {
    let error = rendered("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert_eq!(error, TemplateError::Refused { message: "roles must alternate".into() });
    let text = "the chat template refuses this chat: roles must alternate";
    assert_eq!(error.to_string(), text);
}

#[test]
fn malformed_templates_name_the_line() {
    let error = rendered("line one\n{% for %}").unwrap_err().to_string();
    assert!(error.starts_with("the chat template fails: ") && error.contains("chat:2"), "{error}");
    let error = rendered("{{ messages | nonsense }}").unwrap_err().to_string();
    assert!(error.contains("nonsense"), "{error}");
    assert!(matches!(rendered("{{ missing.field }}"), Err(TemplateError::Invalid { .. })));
    assert!(matches!(rendered("{% include 'x' %}"), Err(TemplateError::Invalid { .. })));
}

#[test]
fn hostile_templates_run_into_a_limit() {
    let loops = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert_eq!(rendered(loops), Err(TemplateError::TooMuchWork));
    let doubling = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}\
                    {% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}";
    assert_eq!(rendered(doubling), Err(TemplateError::TooMuchWork));
    let repeat = format!("{{% for i in range(9) %}}{{{{ 'x' * {} }}}}{{% endfor %}}", 1 << 20);
    assert_eq!(rendered(&repeat), Err(TemplateError::LongOutput));
    let recursive = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(rendered(recursive).is_err());
    let source = " ".repeat(MAX_TEMPLATE_BYTES + 1);
    let got = source.len();
    assert_eq!(rendered(&source), Err(TemplateError::LongSource { got }));
}

#[test]
fn a_chat_longer_than_the_tokenizer_takes_is_refused() {
    let long = [Message::new("user", "x".repeat(MAX_RENDERED_BYTES))];
    assert_eq!(rendered_with("{{ messages[0].content }}!", &long), Err(TemplateError::LongOutput));
    assert_eq!(
        rendered_with("{{ messages[0].content }}", &long).map(|text| text.len()),
        Ok(MAX_RENDERED_BYTES)
    );
}

#[test]
fn no_template_within_the_limits_exhausts_the_stack() {
    let fill = |open: &str, close: &str| {
        let times = (MAX_TEMPLATE_BYTES - 64) / (open.len() + close.len());
        (open.repeat(times), close.repeat(times))
    };
    for (open, close) in [("(", ")"), ("[", "]"), ("-", ""), ("not ", ""), ("1+", "")] {
        let (open, close) = fill(open, close);
        let _ = rendered(&format!("{{{{ {open}1{close} }}}}"));
    }
    for link in [".a", "|abs", "()", "[0]", " is string", " if 1", " ** 1", "<1"] {
        let _ = rendered(&format!("{{{{ 1{} }}}}", fill(link, "").0));
    }
    for (open, close) in [("{% if 1 %}", "{% endif %}"), ("{% elif 1 %}", "")] {
        let (open, close) = fill(open, close);
        let _ = rendered(&format!("{{% if 0 %}}{open}{close}{{% endif %}}"));
    }
}
