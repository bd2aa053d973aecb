//! Matchers, templates and pauses of handlers.

use anomaly_core::handler::{ATTEMPTS, Matchers, Subject, TRANSITIONS, Template, pause};
use anomaly_core::{Error, Severity};
use proptest::prelude::*;
use serde_json::{Value, json};

const SUBJECT: Subject = Subject {
    detector: "orders",
    entity: "shop1",
    anomaly_type: "data_outlier",
    kind: "anomaly",
    severity: Severity::Critical,
    transition: "opened",
};

fn parse(matchers: Value) -> Matchers {
    Matchers::parse(&matchers).unwrap()
}

#[test]
fn all_matchers_have_to_hold() {
    for (matchers, expected) in [
        (json!({}), true),
        (json!({"detector": "orders"}), true),
        (json!({"detector": ["x", "orders"]}), true),
        (json!({"detector": "order"}), false),
        (json!({"entity": "shop1", "detector": "orders"}), true),
        (json!({"entity": "shop2", "detector": "orders"}), false),
        (json!({"entity": ""}), false),
        (json!({"anomaly_type": ["data_drift"]}), false),
        (json!({"kind": ["no_data", "anomaly"]}), true),
        (json!({"kind": "error"}), false),
        (json!({"min_severity": "critical"}), true),
        (json!({"min_severity": "info"}), true),
        (json!({"min_severity": "emergency"}), false),
        (json!({"transitions": ["opened", "resolved"]}), true),
        (json!({"transitions": "resolved"}), false),
    ] {
        assert_eq!(parse(matchers.clone()).matches(&SUBJECT), expected, "{matchers}");
        let stored = parse(matchers).to_json();
        assert_eq!(parse(stored.clone()).to_json(), stored);
    }
}

#[test]
fn matchers_that_cannot_be_are_refused_with_what_can() {
    for (matchers, named, hint) in [
        (json!(null), "null", "for example"),
        (json!([]), "[]", "for example"),
        (json!({"detektor": "x"}), "detektor", "min_severity"),
        (json!({"detector": 1}), "detector", "array of texts"),
        (json!({"detector": ["a", null]}), "detector", "array of texts"),
        (json!({"entity": []}), "entity", "leave out"),
        (json!({"min_severity": "fatal"}), "fatal", "emergency"),
        (json!({"min_severity": null}), "null", "emergency"),
        (json!({"kind": "no data"}), "no data", "no_data"),
        (json!({"transitions": ["opened", "closed"]}), "closed", "withdrawn"),
    ] {
        match Matchers::parse(&matchers) {
            Err(Error::InvalidParameter { message, hint: given }) => {
                assert!(message.contains(named) && given.contains(hint), "{message}: {given}");
            }
            other => panic!("{matchers}: {other:?}"),
        }
    }
}

#[test]
fn templates_show_values() {
    let fields = ["value", "entity", "description", "lower"];
    let values = json!({"value": 12.5, "entity": "web1", "description": "{{value}} \"high\"", "lower": null});
    let values = values.as_object().unwrap();
    for (template, expected) in [
        ("", ""),
        ("no placeholder } {", "no placeholder } {"),
        ("{{entity}}: {{ value }}!", "web1: 12.5!"),
        // what a value says is no template
        ("{{description}}", "{{value}} \"high\""),
        ("[{{lower}}]", "[]"),
        ("{{value}}{{value}}", "12.512.5"),
    ] {
        let rendered = Template::parse(template, &fields).unwrap().render(values);
        assert_eq!(rendered, expected, "{template}");
    }
    for (template, named) in [
        ("{{valu}}", "{{valu}}"),
        ("{{}}", "{{}}"),
        ("{{value", "does not end"),
        ("{{a {{value}}", "{{a {{value}}"),
    ] {
        let Err(Error::InvalidParameter { message, .. }) = Template::parse(template, &fields)
        else {
            panic!("{template} is taken");
        };
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn pauses_grow_to_an_hour() {
    for (attempt, seconds) in
        [(1, 5.0), (2, 10.0), (5, 80.0), (10, 2560.0), (11, 3600.0), (u32::MAX, 3600.0)]
    {
        for seed in 0..50 {
            let factor = pause(attempt, seed) as f64 / 1e6 / seconds;
            assert!((0.9..=1.1).contains(&factor), "{attempt}: {factor}");
        }
    }
    assert_ne!(pause(3, 1), pause(3, 2));
    assert_eq!(ATTEMPTS, 10);
    assert_eq!(TRANSITIONS.len(), 6);
}

proptest! {
    #[test]
    fn any_text_is_a_template_or_refused(text in "[{}a ]{0,30}", value in ".{0,20}") {
        if let Ok(template) = Template::parse(&text, &["a"]) {
            let values = json!({"a": value});
            let rendered = template.render(values.as_object().unwrap());
            prop_assert!(rendered.len() <= text.len() + 30 * value.len());
        }
    }
}
