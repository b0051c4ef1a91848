//! Changes to JSON that leave it JSON: members that are missing, strange, doubled or of another type.

use serde_json::{Value, json};

use super::drive::Random;

/// Values that somebody did not think of.
fn strange(random: &mut Random) -> Value {
    match random.below(22) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(1.5),
        5 => json!(u64::MAX),
        6 => json!(i64::MIN),
        7 => json!(1e300),
        8 => json!(""),
        9 => json!([]),
        10 => json!({}),
        11 => json!([null, [], {}, "x", 5]),
        12 => json!("\u{0}\u{1f980}\u{ffff}"),
        13 => json!("x".repeat(1 << random.below(17))),
        14 => json!("heads/main"),
        15 => json!("ref:heads/main"),
        16 => json!("git:0123456789012345678901234567890123456789"),
        17 => json!("0".repeat(64)),
        18 => json!("#0"),
        19 => json!(vec!["0".repeat(64); random.below(300)]),
        20 => json!(u32::MAX),
        _ => {
            let mut deep = json!(1);
            for _ in 0..random.below(200) {
                deep = json!([deep]);
            }
            deep
        }
    }
}

/// Changes a value in one to three places.
pub(crate) fn change(random: &mut Random, value: &mut Value) {
    for _ in 0..=random.below(3) {
        change_once(random, value, 0);
    }
}

fn change_once(random: &mut Random, value: &mut Value, depth: usize) {
    // Deeper places are as likely as the top.
    let down = random.below(depth + 4) != 0;
    match value {
        Value::Object(map) if down && !map.is_empty() => {
            let name = map.keys().nth(random.below(map.len())).expect("a member").clone();
            match random.below(8) {
                0 => drop(map.remove(&name)),
                1 => {
                    let member = map.get(&name).cloned().unwrap_or_default();
                    map.insert(format!("{name}x"), member);
                }
                _ => change_once(random, map.get_mut(&name).expect("a member"), depth + 1),
            }
        }
        Value::Array(list) if down && !list.is_empty() => {
            let at = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(at)),
                1 => {
                    let item = list[at].clone();
                    list.extend(std::iter::repeat_n(item, 1 << random.below(10)));
                }
                _ => change_once(random, &mut list[at], depth + 1),
            }
        }
        Value::Number(number) if random.one_in(2) => {
            let present = number.as_u64().unwrap_or_default();
            *value = json!(present.wrapping_add(1).wrapping_mul(1 << random.below(40)));
        }
        Value::String(text) if random.one_in(2) => {
            let mut characters: Vec<char> = text.chars().collect();
            let at = random.below(characters.len() + 1);
            let odd = *random.pick(&['\0', '"', '\\', '/', '.', '%', '\u{1f980}', 'A', ' ', '\n', ':']);
            match (random.below(3), at < characters.len()) {
                (0, true) => drop(characters.remove(at)),
                (1, true) => characters[at] = odd,
                _ => characters.insert(at, odd),
            }
            *text = characters.into_iter().collect();
        }
        other => *other = strange(random),
    }
}
