//! Chat templates as models bring them, and as an attacker would.

use lockstep_import::limits::{MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES};
use lockstep_import::template::{Chat, Date, Message, Prompt, TemplateError, render, try_out};
use serde_json::{Map, Value, json};

fn messages() -> Vec<Message> {
    vec![Message::new("system", "Be brief."), Message::new("user", "Hi <b>&</b>\n")]
}

fn rendered(source: &str) -> Result<String, TemplateError> {
    rendered_with(source, &messages())
}

fn rendered_with(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
    prompt_of(source, messages, None, &json!({})).map(|prompt| prompt.text().to_owned())
}

fn prompt_of(
    source: &str,
    messages: &[Message],
    tools: Option<&[Value]>,
    arguments: &Value,
) -> Result<Prompt, TemplateError> {
    let chat = Chat {
        messages,
        tools,
        arguments: arguments.as_object().unwrap(),
        add_generation_prompt: true,
        bos_token: "<s>",
        eos_token: "</s>",
        date: Date::parse("2026-11-23").unwrap(),
    };
    render(source, &chat)
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
            tools: None,
            arguments: &Map::new(),
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
        let got = render(source, &chat).map(|prompt| prompt.text().to_owned());
        assert_eq!(got, expected, "{family} {messages:?}");
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
    assert!(error.starts_with("the chat template fails: ") && error.contains("line 2"), "{error}");
    let error = rendered("{{ messages | nonsense }}").unwrap_err().to_string();
    assert!(error.contains("nonsense"), "{error}");
    assert!(matches!(rendered("{{ missing.field }}"), Err(TemplateError::Invalid { .. })));
    assert!(matches!(rendered("{% include 'x' %}"), Err(TemplateError::Invalid { .. })));
}

#[test]
fn hostile_templates_run_into_a_limit() {
    let search = "{% set x = 'b' * 4000000 %}{% for i in range(9999) %}{% if 'a' in x %}{% endif %}\
                  {% endfor %}";
    assert_eq!(rendered(search), Err(TemplateError::TooMuchWork));
    let loops = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert_eq!(rendered(loops), Err(TemplateError::TooMuchMemory));
    let repeat = format!("{{% for i in range(9) %}}{{{{ 'x' * {} }}}}{{% endfor %}}", 1 << 20);
    assert_eq!(rendered(&repeat), Err(TemplateError::LongOutput));
    let recursive = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert_eq!(rendered(recursive), Err(TemplateError::TooDeep));
    let nested = "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}\
                  {% endfor %}{{ ns.l }}";
    assert_eq!(rendered(nested), Err(TemplateError::TooDeep));
    let source = " ".repeat(MAX_TEMPLATE_BYTES + 1);
    let got = source.len();
    assert_eq!(rendered(&source), Err(TemplateError::LongSource { got }));
}

/// Each makes a value of more than memory should hold. None may be made first and refused then:
/// most would need more memory than machines have.
#[test]
fn values_that_are_too_large_are_refused_before_they_are_made() {
    let big = "9999999999999";
    for template in [
        "{{ 'a' * N }}",
        "{{ N * 'a' }}",
        "{{ [0] * N }}",
        "{{ (0, 1) * N }}",
        "{{ [[0] * 999] * N }}",
        "{{ '{:>N}'.format('x') }}",
        "{{ '{:0N}'.format(1) }}",
        "{{ '{:{}}'.format('x', N) }}",
        "{{ '{:,>N}'.format(1.5) }}",
        "{{ '{:0N,}'.format(1) }}",
        "{{ '{:<N}'.format(none) }}",
        "{{ '%Ns' % 'x' }}",
        "{{ '%-Nd' % 1 }}",
        "{{ '%0Nd' % 1 }}",
        "{{ '%*d' % (N, 1) }}",
        "{{ '%.Nf' % 1.5 }}",
        "{{ '{:.Nf}'.format(1.5) }}",
        "{{ 'a'.ljust(N) }}",
        "{{ 'a'.rjust(N) }}",
        "{{ 'a'.center(N) }}",
        "{{ '5'.zfill(N) }}",
        "{{ 'a'|center(N) }}",
        "{{ 'a\\nb'|indent(N) }}",
        "{{ 'a\\tb'.expandtabs(N) }}",
        "{{ [1]|tojson(indent=N) }}",
        "{{ [1]|batch(N, 0)|list }}",
        "{{ [1]|slice(N)|list }}",
        "{{ range(N)|list }}",
        "{{ range(0, N, 1)|join }}",
        "{{ 'x' ~ 'y' * N }}",
        "{% for i in range(N) %}{% endfor %}",
        "{% for i in 'a' * N %}{% endfor %}",
        "{{ ('a' * 3000000).replace('a', 'b' * 3000000) }}",
        "{{ ('a' * 9000).join('a' * 90000) }}",
        "{{ ('a' * 90000)|replace('', 'b' * 9000) }}",
        "{{ ('a' * 9000).join(['b'] * 90000) }}",
        "{{ (['b'] * 90000)|join('a' * 9000) }}",
        "{{ ('ab' * 999999).split('b')|length }}",
        "{{ ('a' * 30000000)|list }}",
        "{{ ('\"' * 4000000)|tojson|tojson|tojson|tojson|length }}",
        "{{ ('a\\n' * 100000)|indent(10000) }}",
        "{{ ('<' * 4000000)|forceescape|forceescape|forceescape|length }}",
        "{{ ('\u{390}' * 12000000).upper()|length }}",
        "{{ ('&' * 40000000)|urlencode|length }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}\
         {% endfor %}{{ ns.s|length }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}\
         {% endfor %}{{ ns.s|length }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}\
         {% endfor %}{{ ns.l|length }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = [ns.l, ns.l] %}\
         {% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = [ns.l, ns.l] %}\
         {% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(d={}) %}{% for i in range(99999) %}\
         {% set ns.d = dict(ns.d, **{i|string: i}) %}{% endfor %}{{ ns.d|length }}",
        "{% set ns = namespace(s='') %}{% for i in range(99999) %}{% set ns.s = ns.s ~ 'x' * 99 %}\
         {% endfor %}{{ ns.s|length }}",
        "{% set x %}{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}{% endset %}{{ x }}",
        "{% macro m() %}{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}{% endmacro %}\
         {{ m()|length }}",
    ] {
        let got = rendered(&template.replace('N', big));
        assert!(got.is_err(), "{template} gave {} bytes", got.unwrap_or_default().len());
    }
}

#[test]
fn a_template_is_tried_on_a_chat_before_anybody_needs_it() {
    assert_eq!(try_out("default", "{{ messages[0].content }}", "", ""), Ok(()));
    assert_eq!(try_out("default", "{{ raise_exception('no') }}", "", ""), Ok(()));
    assert!(matches!(try_out("default", "{% for %}", "", ""), Err(TemplateError::Invalid { .. })));
    assert!(matches!(
        try_out("default", "{{ nothing.x }}", "", ""),
        Err(TemplateError::Invalid { .. })
    ));
    assert!(try_out("default", "{{ 'x' * 10**12 }}", "", "").is_err());
    // Each on a chat that it is taken for, and others on none.
    let needs_tools = "{% for tool in tools %}{{ tool.function.name }}{% endfor %}";
    assert!(try_out("default", needs_tools, "", "").is_err());
    assert_eq!(try_out("tool_use", needs_tools, "", ""), Ok(()));
    assert!(try_out("tool_use", "{% for %}", "", "").is_err());
    assert_eq!(try_out("rag", "{{ documents[0].text }}", "", ""), Ok(()));
}

/// What users wrote of `source`'s output.
fn user_text(source: &str, message: &Value) -> Vec<String> {
    let messages = [Message::from_json(message).unwrap()];
    let tools = [json!({"name": "T<|end|>", "n": 1})];
    let arguments = json!({"argument": "A<|end|>"});
    let prompt = prompt_of(source, &messages, Some(&tools), &arguments).unwrap();
    let text = |span: &std::ops::Range<usize>| prompt.text()[span.clone()].to_owned();
    prompt.user_spans().iter().map(text).collect()
}

#[test]
fn a_users_text_is_known_as_such_whatever_a_template_does_with_it() {
    let message = json!({"role": "user", "content": " Say <|end|> X ", "name": "me"});
    for (expression, expected) in [
        ("message.content", vec![" Say <|end|> X "]),
        ("'<|a|>' + message.content + '<|b|>'", vec![" Say <|end|> X "]),
        ("'<|a|>' ~ message.content|trim ~ '<|b|>'", vec!["Say <|end|> X"]),
        ("message.content.strip()[4:]", vec!["<|end|> X"]),
        ("message.content[::-1]", vec![" X >|dne|< yaS "]),
        ("message.content|upper", vec![" SAY <|END|> X "]),
        ("message.content.title()", vec![" Say <|End|> X "]),
        ("message.content.replace('X', '<|t|>')", vec![" Say <|end|> ", " "]),
        ("'<|a|>X'.replace('X', message.content)", vec![" Say <|end|> X "]),
        ("message.content.split()|join('<|t|>')", vec!["Say", "<|end|>", "X"]),
        ("message.content.partition('<|end|>')|last", vec![" X "]),
        ("message.content|tojson", vec![" Say <|end|> X "]),
        ("message|tojson", vec![" Say <|end|> X ", "name", "me"]),
        ("[message.content]", vec![" Say <|end|> X "]),
        ("'%s|%s' % (message.content, 1)", vec![" Say <|end|> X "]),
        ("'{}|{:>20}'.format(1, message.content)", vec![" Say <|end|> X "]),
        ("message.content|list|join", vec![" Say <|end|> X "]),
        ("message.content|indent(2, true)", vec![" Say <|end|> X "]),
        ("(message.content ~ '<|t|>') * 2", vec![" Say <|end|> X ", " Say <|end|> X "]),
        ("message.content|e", vec![" Say &lt;|end|&gt; X "]),
        ("message.content|map('lower')|join('')", vec![" say <|end|> x "]),
        ("message.role ~ message.name", vec!["me"]),
        ("argument ~ tools[0].name", vec!["A<|end|>T<|end|>"]),
        ("tools[0].n", vec![]),
        ("dict(**{message.content: 1})", vec![" Say <|end|> X "]),
        ("strftime_now(message.content)", vec![" Say <|end|> X "]),
        ("'%c%s' % (60, '<|t|>')", vec!["<"]),
        ("'{:<>3}<|t|>'.format(1)", vec!["<<"]),
    ] {
        let source = format!("{{% set message = messages[0] %}}<|x|>{{{{ {expression} }}}}<|y|>");
        assert_eq!(user_text(&source, &message), expected, "{expression}");
    }
    let block = "{% set x %}<|a|>{{ messages[0].content }}{% endset %}{{ x|trim }}\
                 {% filter upper %}<|b|>{{ messages[0].content }}{% endfilter %}\
                 {% macro m(y) %}<|c|>{{ y }}{% endmacro %}{{ m(messages[0].content) }}";
    let expected = [" Say <|end|> X", " SAY <|END|> X ", " Say <|end|> X "];
    assert_eq!(user_text(block, &message), expected);
}

#[test]
fn a_role_is_the_templates_own_only_if_it_is_a_known_one() {
    let source = "<|{{ messages[0].role }}|>";
    assert_eq!(user_text(source, &json!({"role": "user", "content": ""})), [""; 0]);
    assert_eq!(user_text(source, &json!({"role": "im_end", "content": ""})), ["im_end"]);
}

#[test]
fn arguments_of_tool_calls_reach_the_template_as_objects() {
    let call = |arguments: Value| {
        let function = json!({"name": "f", "arguments": arguments});
        let message = json!({"role": "assistant", "content": null,
            "tool_calls": [{"id": "1", "type": "function", "function": function}]});
        Message::from_json(&message).unwrap()
    };
    let source = "{{ messages[0].tool_calls[0].function.arguments.city }}{{ messages[0].content }}";
    for arguments in [json!({"city": "Bern"}), json!("{\"city\": \"Bern\"}")] {
        assert_eq!(rendered_with(source, &[call(arguments)]).as_deref(), Ok("BernNone"));
    }
    for (message, error) in [
        (json!(1), "expected an object"),
        (json!({"content": ""}), "role"),
        (json!({"role": "user", "content": 1}), "content"),
        (json!({"role": "user", "tool_calls": {}}), "tool_calls"),
    ] {
        assert!(Message::from_json(&message).unwrap_err().to_string().contains(error));
    }
}

#[test]
fn arguments_reach_the_template_but_for_what_the_program_gives() {
    let arguments = json!({"enable_thinking": false, "n": [1]});
    let source = "{{ enable_thinking }}{{ n }}";
    let prompt = prompt_of(source, &messages(), None, &arguments).unwrap();
    assert_eq!(prompt.text(), "False[1]");
    let refused = prompt_of(source, &messages(), None, &json!({"messages": []}));
    assert_eq!(refused, Err(TemplateError::Reserved { name: "messages" }));
}

/// `dev/compare_templates.py features --write` writes down what Python's jinja2 gives.
#[test]
fn single_constructs_give_what_python_gives() {
    let golden: Vec<Value> = serde_json::from_str(include_str!("golden/features.json")).unwrap();
    assert!(golden.len() > 500);
    let chat = [("system", "S"), ("user", "U1"), ("assistant", "A"), ("user", "U2")];
    let chat = chat.map(|(role, text)| Message::new(role, text));
    for case in golden {
        let source = case["template"].as_str().unwrap();
        let got = render(
            source,
            &Chat {
                messages: &chat,
                tools: None,
                arguments: &Map::new(),
                add_generation_prompt: true,
                bos_token: "<s>",
                eos_token: "</s>",
                date: Date::parse("2026-11-29").unwrap(),
            },
        );
        let got = got.map(|prompt| prompt.text().to_owned());
        if case.get("unsupported").is_some() {
            assert!(matches!(got, Err(TemplateError::Invalid { .. })), "{source}");
        } else if let Some(text) = case.get("text") {
            assert_eq!(got.as_deref(), Ok(text.as_str().unwrap()), "{source}");
        } else if let Some(message) = case.get("refused") {
            let message = message.as_str().unwrap().to_owned();
            assert_eq!(got, Err(TemplateError::Refused { message }), "{source}");
        } else {
            assert!(got.is_err(), "{source}");
        }
    }
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
