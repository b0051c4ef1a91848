//! What all servers behind the gateway offer together, at one moment.
//!
//! Pure. Promises: rows are sorted; every public name leads to one server; where two servers give one name, the first by its own
//! name has it and the other's is told as a collision; a server that is down keeps what it offered last.
//! Does not: fetch anything.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hyper::header::HeaderName;
use serde_json::Value;
use serde_json::value::RawValue;

use super::link::Spoken;
use super::pool::Pool;
use super::stdio::StdioLink;
use super::window::Breaker;
use crate::config::upstream::{Reach, SEPARATOR, Upstream, UpstreamError};

/// Rows of one list of one server.
pub(crate) const ROWS_MAX: usize = 4096;

/// Prefixes of one name: gateways behind gateways. A circle of them would name its tools without end.
const PREFIXES_MAX: usize = 4;

/// A row of a list, as its server gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name, URI or template.
    pub(crate) key: String,
    /// The whole row.
    pub(crate) json: String,
}

/// A server's lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) tools: Vec<Listed>,
    pub(crate) prompts: Vec<Listed>,
    pub(crate) resources: Vec<Listed>,
    pub(crate) templates: Vec<Listed>,
}

/// What is known of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// What it speaks, once it has answered.
    pub(crate) spoken: Option<Spoken>,
    /// Why it does not answer now.
    pub(crate) error: Option<String>,
    /// When its lists were read, in milliseconds since 1970; 0 for never.
    pub(crate) read_ms: u64,
    /// What it offers.
    pub(crate) lists: Arc<Lists>,
    /// What it says it can.
    pub(crate) capabilities: Arc<Value>,
}

/// A server behind the gateway.
#[derive(Clone)]
pub(crate) struct Entry {
    /// What was declared.
    pub(crate) upstream: Arc<Upstream>,
    /// Grows with every change of the declaration.
    pub(crate) generation: u64,
    /// The way to its process, if it is one.
    pub(crate) process: Option<StdioLink>,
    /// What is known of it.
    pub(crate) known: Known,
    /// How its endpoints are: the same for every core, and for as long as the declaration stays as it is.
    pub(crate) pool: Arc<Pool>,
    /// The breakers of its tools.
    pub(crate) breakers: Breakers,
}

impl Entry {
    /// One whose endpoints nothing is known of.
    pub(crate) fn of(upstream: Upstream, generation: u64, process: Option<StdioLink>, known: Known) -> Self {
        let urls = if let Reach::Http { urls, .. } = &upstream.reach { urls.as_slice() } else { &[] };
        let pool = Arc::new(Pool::new(upstream.pooling.clone(), urls, upstream.concurrency_max));
        let breakers = Breakers::default().of(&known.lists.tools, &pool);
        Self { upstream: Arc::new(upstream), generation, process, known, pool, breakers }
    }
}

/// The breakers of each tool of a server, one for each endpoint; what is no tool has some together, under an empty name.
#[derive(Clone, Default)]
pub(crate) struct Breakers(Arc<BTreeMap<String, Arc<Vec<Breaker>>>>);

impl Breakers {
    /// Those of these tools, with the state that they had.
    pub(crate) fn of(&self, tools: &[Listed], pool: &Pool) -> Self {
        let names = tools.iter().map(|tool| tool.key.as_str()).chain([""]);
        let each = names.map(|name| {
            let new = || Arc::new(pool.endpoints.iter().map(|_| Breaker::new(&pool.rule.breaker)).collect());
            (name.to_owned(), self.0.get(name).cloned().unwrap_or_else(new))
        });
        Self(Arc::new(each.collect()))
    }

    /// Those of one tool.
    pub(crate) fn tool(&self, name: &str) -> Option<Arc<Vec<Breaker>>> {
        self.0.get(name).or_else(|| self.0.get("")).cloned()
    }

    /// Those that are not closed or have failures that count, for people.
    pub(crate) fn rows(&self, pool: &Pool, now: u64) -> Vec<Value> {
        let each = self.0.iter().flat_map(|(tool, breakers)| {
            breakers.iter().zip(&pool.endpoints).map(move |(breaker, endpoint)| (tool, breaker, endpoint))
        });
        let told = each.filter(|(_, breaker, _)| breaker.word(now) != "closed" || 0 < breaker.failures(now));
        let rows = told.map(|(tool, breaker, endpoint)| {
            serde_json::json!({
                "tool": tool, "endpoint": endpoint.shown, "state": breaker.word(now),
                "failures": breaker.failures(now), "retry_ms": breaker.wait(&pool.rule.breaker, now),
            })
        });
        rows.collect()
    }

    /// Closes those of one tool, or all.
    pub(crate) fn reset(&self, tool: Option<&str>) -> usize {
        let meant = self.0.iter().filter(|(name, _)| tool.is_none_or(|tool| tool == name.as_str()));
        meant.flat_map(|(_, breakers)| breakers.iter()).map(Breaker::reset).count()
    }
}

/// Where a public name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which of the entries.
    pub(crate) entry: usize,
    /// The name that the server gave.
    pub(crate) own: String,
    /// Arguments that its requests mirror into headers.
    pub(crate) mirrors: Vec<Mirror>,
    /// Whether a request may be carried out twice: a reading, or a tool that says so of itself.
    pub(crate) repeats: bool,
}

/// An argument, by the names on the way to it, and the header that mirrors it.
pub(crate) type Mirror = (Vec<String>, HeaderName);

/// A row as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its public name.
    pub(crate) key: String,
    /// The whole row, with that name.
    pub(crate) json: String,
}

/// All servers and what they offer.
#[derive(Clone, Default)]
pub struct Federation {
    pub(crate) entries: Vec<Entry>,
    pub(crate) tools: Vec<Row>,
    pub(crate) prompts: Vec<Row>,
    pub(crate) resources: Vec<Row>,
    pub(crate) templates: Vec<Row>,
    tools_by_name: HashMap<String, Place>,
    prompts_by_name: HashMap<String, Place>,
    resources_by_uri: HashMap<String, usize>,
    templates_of: Vec<(String, usize)>,
    /// Names that more than one server gives, each with who lost it.
    pub(crate) collisions: Vec<String>,
    /// Declarations that were refused.
    pub(crate) refused: Vec<UpstreamError>,
}

impl Federation {
    /// The federation of these servers, which are sorted by name. `taken` are the names that the node's own tools have.
    pub(crate) fn of(entries: Vec<Entry>, refused: Vec<UpstreamError>, taken: impl Fn(&str) -> bool) -> Self {
        let mut federation = Self { refused, ..Self::default() };
        for (at, entry) in entries.iter().enumerate() {
            let (upstream, lists) = (&entry.upstream, &entry.known.lists);
            for listed in &lists.tools {
                let rule = upstream.tools.get(&listed.key);
                if rule.is_some_and(|rule| rule.hidden) {
                    continue;
                }
                let alias = rule.and_then(|rule| rule.alias.clone());
                let public = alias.unwrap_or_else(|| format!("{}{}", upstream.prefix, listed.key));
                if is_too_deep(&public) {
                    continue;
                }
                if taken(&public) || federation.tools_by_name.contains_key(&public) {
                    federation.collisions.push(format!("tool {public} of {}", upstream.name));
                    continue;
                }
                let Some(json) = renamed(&listed.json, &public) else { continue };
                let place = Place {
                    entry: at,
                    own: listed.key.clone(),
                    mirrors: mirrors(&listed.json),
                    repeats: repeats(&listed.json),
                };
                federation.tools_by_name.insert(public.clone(), place);
                federation.tools.push(Row { key: public, json });
            }
            for listed in &lists.prompts {
                let public = format!("{}{}", upstream.prefix, listed.key);
                if is_too_deep(&public) {
                    continue;
                }
                if federation.prompts_by_name.contains_key(&public) {
                    federation.collisions.push(format!("prompt {public} of {}", upstream.name));
                    continue;
                }
                let Some(json) = renamed(&listed.json, &public) else { continue };
                let place = Place { entry: at, own: listed.key.clone(), mirrors: Vec::new(), repeats: true };
                federation.prompts_by_name.insert(public.clone(), place);
                federation.prompts.push(Row { key: public, json });
            }
            for listed in &lists.resources {
                if federation.resources_by_uri.contains_key(&listed.key) {
                    federation.collisions.push(format!("resource {} of {}", listed.key, upstream.name));
                    continue;
                }
                federation.resources_by_uri.insert(listed.key.clone(), at);
                federation.resources.push(Row { key: listed.key.clone(), json: listed.json.clone() });
            }
            for listed in &lists.templates {
                if federation.templates_of.iter().any(|(known, _)| *known == listed.key) {
                    federation.collisions.push(format!("template {} of {}", listed.key, upstream.name));
                    continue;
                }
                federation.templates_of.push((listed.key.clone(), at));
                federation.templates.push(Row { key: listed.key.clone(), json: listed.json.clone() });
            }
        }
        for rows in
            [&mut federation.tools, &mut federation.prompts, &mut federation.resources, &mut federation.templates]
        {
            rows.sort_by(|one, other| one.key.cmp(&other.key));
        }
        federation.entries = entries;
        federation
    }

    /// Where a tool is.
    pub(crate) fn tool(&self, name: &str) -> Option<&Place> {
        self.tools_by_name.get(name)
    }

    /// Where a prompt is.
    pub(crate) fn prompt(&self, name: &str) -> Option<&Place> {
        self.prompts_by_name.get(name)
    }

    /// Whose resource a URI is: who lists it, or has a template that it fits.
    pub(crate) fn resource(&self, uri: &str) -> Option<usize> {
        let listed = self.resources_by_uri.get(uri).copied();
        listed.or_else(|| self.templates_of.iter().find(|(template, _)| fits(template, uri)).map(|(_, at)| *at))
    }

    /// Whose template this is.
    pub(crate) fn template(&self, template: &str) -> Option<usize> {
        self.templates_of.iter().find(|(known, _)| known == template).map(|(_, at)| *at)
    }

    /// Whether clients see something else in these lists than in those.
    pub(crate) fn differs(&self, other: &Self) -> Differs {
        Differs {
            tools: self.tools != other.tools,
            prompts: self.prompts != other.prompts,
            resources: self.resources != other.resources || self.templates != other.templates,
        }
    }
}

/// Which lists differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differs {
    pub(crate) tools: bool,
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
}

/// Whether a name went through more gateways than one may have, as those of a circle do.
fn is_too_deep(public: &str) -> bool {
    PREFIXES_MAX < public.matches(SEPARATOR).count()
}

/// A row under another name.
fn renamed(json: &str, name: &str) -> Option<String> {
    let mut row: BTreeMap<Cow<'_, str>, Cow<'_, RawValue>> = serde_json::from_str::<BTreeMap<String, &RawValue>>(json)
        .ok()?
        .into_iter()
        .map(|(member, value)| (Cow::Owned(member), Cow::Borrowed(value)))
        .collect();
    let name = serde_json::value::to_raw_value(name).ok()?;
    row.insert(Cow::Borrowed("name"), Cow::Owned(name));
    serde_json::to_string(&row).ok()
}

/// Whether a tool says that it only reads, or that a second call changes nothing more.
fn repeats(json: &str) -> bool {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Annotations {
        read_only_hint: bool,
        idempotent_hint: bool,
    }
    #[derive(serde::Deserialize)]
    struct Tool {
        #[serde(default)]
        annotations: Annotations,
    }
    serde_json::from_str::<Tool>(json)
        .is_ok_and(|tool| tool.annotations.read_only_hint || tool.annotations.idempotent_hint)
}

/// The arguments that a tool's schema mirrors into headers (`x-mcp-header`).
fn mirrors(json: &str) -> Vec<Mirror> {
    /// How deep in a schema headers are looked for.
    const DEPTH_MAX: usize = 16;
    fn look(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Mirror>) {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        if DEPTH_MAX <= path.len() {
            return;
        }
        for (name, property) in properties {
            path.push(name.clone());
            if let Some(header) = property.get("x-mcp-header").and_then(Value::as_str)
                && let Ok(header) = format!("mcp-param-{header}").to_lowercase().parse()
            {
                found.push((path.clone(), header));
            }
            look(property, path, found);
            path.pop();
        }
    }
    let mut found = Vec::new();
    if json.contains("x-mcp-header")
        && let Ok(row) = serde_json::from_str::<Value>(json)
        && let Some(schema) = row.get("inputSchema")
    {
        look(schema, &mut Vec::new(), &mut found);
    }
    found
}

/// Whether a URI may come from a template (RFC 6570). An expression stands for anything but, unless it reserves them, slashes; one
/// of a query for nothing, or for all from its mark on. Takes time in proportion to the product of both lengths.
pub(crate) fn fits(template: &str, uri: &str) -> bool {
    let uri = uri.as_bytes();
    // Where the URI may stand after what was read of the template.
    let mut places = vec![false; uri.len() + 1];
    places[0] = true;
    let mut rest = template;
    loop {
        let (literal, after) = rest.split_once('{').map_or((rest, None), |(literal, after)| (literal, Some(after)));
        let mut next = vec![false; uri.len() + 1];
        for at in (0..uri.len() + 1).filter(|&at| places[at] && uri[at..].starts_with(literal.as_bytes())) {
            next[at + literal.len()] = true;
        }
        places = next;
        let Some(after) = after else { return places[uri.len()] };
        let Some((expression, after)) = after.split_once('}') else { return false };
        let query = expression.starts_with(['?', '&']);
        let reserved = query || expression.starts_with(['+', '#', '/']);
        let mut open = false;
        for (at, place) in places.iter_mut().enumerate() {
            open |= *place && (!query || matches!(uri.get(at), Some(b'?' | b'&')));
            *place |= open;
            open &= reserved || uri.get(at) != Some(&b'/');
        }
        rest = after;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    fn entry(name: &str, extra: &str, tools: &[&str]) -> Entry {
        let upstream = Upstream::parse(name, &format!("url = \"http://h/mcp\"\n{extra}")).unwrap();
        let tool = |key: &&str| Listed {
            key: (*key).to_owned(),
            json: format!("{{\"name\":{key:?},\"inputSchema\":{{\"maximum\":1.10}}}}"),
        };
        let lists = Lists { tools: tools.iter().map(tool).collect(), ..Lists::default() };
        let known = Known { lists: Arc::new(lists), ..Known::default() };
        Entry::of(upstream, 0, None, known)
    }

    #[test]
    fn s3_1_1_every_public_name_leads_to_one_server_and_collisions_are_told() {
        let entries = vec![
            entry("a", "prefix = \"\"", &["dag_get", "look", "x"]),
            entry("b", "[tools.x]\nalias = \"look\"\n[tools.y]\nhidden = true", &["x", "y", "z"]),
        ];
        let federation = Federation::of(entries, Vec::new(), |name| name == "dag_get");
        let names: Vec<&str> = federation.tools.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(names, ["b__z", "look", "x"]);
        assert_eq!(federation.collisions, ["tool dag_get of a", "tool look of b"]);
        assert_eq!(federation.tool("b__z").map(|place| (place.entry, place.own.as_str())), Some((1, "z")));
        assert_eq!(federation.tools[0].json, "{\"inputSchema\":{\"maximum\":1.10},\"name\":\"b__z\"}");
    }

    #[test]
    fn s3_1_1_a_circle_of_gateways_ends() {
        // A gateway behind itself: what it offered is what it is asked about next.
        let mut offered = vec!["t".to_owned()];
        for _ in 0..10 {
            let tools: Vec<&str> = offered.iter().map(String::as_str).collect();
            let mut entry = entry("me", "", &tools);
            let template = Listed { key: "x://{a}".to_owned(), json: "{\"uriTemplate\":\"x://{a}\"}".to_owned() };
            let lists = Lists { templates: vec![template; 2], ..(*entry.known.lists).clone() };
            entry.known.lists = Arc::new(lists);
            let federation = Federation::of(vec![entry], Vec::new(), |_| false);
            assert_eq!(federation.templates.len(), 1);
            offered = std::iter::once("t".to_owned()).chain(federation.tools.into_iter().map(|row| row.key)).collect();
        }
        assert_eq!(offered.len(), 1 + PREFIXES_MAX);
    }

    #[test]
    fn s3_1_1_arguments_that_are_mirrored_are_found_in_the_schema() {
        let json = r#"{"name":"t","inputSchema":{"properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "deep":{"type":"object","properties":{"slot":{"type":"integer","x-mcp-header":"Slot"}}}}}}"#;
        let found = mirrors(json);
        let shown: Vec<(String, &str)> = found.iter().map(|(path, header)| (path.join("."), header.as_str())).collect();
        assert_eq!(shown, [("deep.slot".to_owned(), "mcp-param-slot"), ("region".to_owned(), "mcp-param-region")]);
    }

    #[test]
    fn s3_2_10_a_uri_fits_the_templates_it_may_come_from() {
        let check =
            |template: &str, uri: &str, expected: bool| assert_eq!(fits(template, uri), expected, "{template} {uri}");
        check("test://t/{id}/data", "test://t/7/data", true);
        check("test://t/{id}/data", "test://t/7/8/data", false);
        check("test://t/{+id}/data", "test://t/7/8/data", true);
        check("test://t/{id}", "test://u/7", false);
        check("test://t{?a,b}", "test://t?a=1", true);
        check("test://t{?a,b}", "test://t", true);
        check("test://t{?a,b}", "test://tx", false);
        check("test://t", "test://t", true);
        check("test://{broken", "test://x", false);
        check(&"{a}".repeat(2000), &"x".repeat(2000), true);
        check(&format!("{}y", "{+a}".repeat(2000)), &"x".repeat(2000), false);
    }
}
