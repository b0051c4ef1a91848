//! Follows the declarations and the servers, and publishes what they offer together. Runs on one core.
//!
//! Promises: a change of a declaration is seen within [`LOOK`]; a server that is down is asked again with a growing pause and keeps
//! what it offered last; one server never waits for another.
//! Does not: carry calls of clients.

use std::collections::{BTreeMap, btree_map};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::check::check_all;
use super::envelope::{Message, request};
use super::federation::{Entry, Federation, Known, Listed, Lists, ROWS_MAX};
use super::http::HttpLink;
use super::link::{Broken, Exchange, Link, MODERN, Messages, Reply, Spoken};
use super::pool::{Pool, now};
use super::stdio::{Phase, Program, StdioLink};
use crate::config::upstream::{Era, Reach, Upstream, UpstreamError, read_folder};
use crate::gateway::now_ms;
use crate::runtime;

/// Time between two looks at the folder.
const LOOK: Duration = Duration::from_secs(2);
/// Time for one question to a server about itself.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause before a server that is down is asked again: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The least time for which a list is taken to hold.
const HOLDS_MIN: Duration = Duration::from_secs(1);
/// Pages of one list.
const PAGES_MAX: usize = 256;
/// News from servers that wait to be published.
const NEWS_MAX: usize = 64;

/// What a follower of one server tells.
struct News {
    name: String,
    generation: u64,
    known: Known,
}

/// A server that is followed.
struct Followed {
    entry: Entry,
    /// Dropped to end its follower.
    _stop: oneshot::Sender<()>,
}

/// Starts to follow `folder` on this core.
pub(crate) fn start(folder: PathBuf, publish: watch::Sender<Arc<Federation>>) {
    runtime::spawn(follow(folder, publish));
}

async fn follow(folder: PathBuf, publish: watch::Sender<Arc<Federation>>) {
    let (tell, mut news) = mpsc::channel(NEWS_MAX);
    let mut followed: BTreeMap<String, Followed> = BTreeMap::new();
    let mut generation = 0;
    let mut refused: Vec<UpstreamError> = Vec::new();
    let mut first = true;
    loop {
        let mut changed = false;
        let looked = folder.clone();
        match runtime::blocking(move || read_folder(&looked)).await {
            Ok(declared) => {
                let (good, wrong): (Vec<_>, Vec<_>) = declared.into_iter().partition(Result::is_ok);
                let wrong: Vec<UpstreamError> = wrong.into_iter().filter_map(Result::err).collect();
                if wrong != refused {
                    for error in &wrong {
                        tracing::error!(%error, "an upstream's declaration is refused");
                    }
                    refused = wrong;
                    changed = true;
                }
                let good: BTreeMap<String, Upstream> =
                    good.into_iter().filter_map(Result::ok).map(|upstream| (upstream.name.clone(), upstream)).collect();
                let kept = |name: &String, followed: &mut Followed| good.get(name) == Some(&*followed.entry.upstream);
                let before = followed.len();
                followed.retain(kept);
                changed |= followed.len() != before;
                for (name, upstream) in good {
                    if let btree_map::Entry::Vacant(place) = followed.entry(name) {
                        generation += 1;
                        tracing::info!(upstream = place.key(), "an upstream is declared");
                        place.insert(follow_one(upstream, generation, tell.clone()));
                        changed = true;
                    }
                }
            }
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "the folder of upstreams cannot be read"),
        }
        let look = sleep(LOOK);
        let mut look = std::pin::pin!(look);
        loop {
            if changed || first {
                (changed, first) = (false, false);
                let entries = followed.values().map(|followed| followed.entry.clone()).collect();
                let federation = Federation::of(entries, refused.clone(), crate::gateway::mcp::has_tool);
                publish.send_replace(Arc::new(federation));
            }
            tokio::select! {
                () = &mut look => break,
                // A sender is held here, so it does not end.
                Some(News { name, generation, known }) = news.recv() => {
                    if let Some(followed) = followed.get_mut(&name)
                        && followed.entry.generation == generation
                    {
                        let entry = &mut followed.entry;
                        if !Arc::ptr_eq(&entry.known.lists, &known.lists) {
                            entry.breakers = entry.breakers.of(&known.lists.tools, &entry.pool);
                        }
                        entry.known = known;
                        changed = true;
                    }
                }
                () = publish.closed() => return,
            }
        }
    }
}

fn follow_one(upstream: Upstream, generation: u64, tell: mpsc::Sender<News>) -> Followed {
    let (stop, stopped) = oneshot::channel::<()>();
    let (changed, changes) = mpsc::channel(1);
    let process = program(&upstream).map(|program| StdioLink::start(program, changed.clone()));
    let entry = Entry::of(upstream, generation, process.clone(), Known::default());
    let (upstream, pool) = (entry.upstream.clone(), entry.pool.clone());
    runtime::spawn(async move {
        let name = upstream.name.clone();
        let watching = keep_known(upstream, process, pool, changed, changes, |known| {
            let news = News { name: name.clone(), generation, known };
            let tell = tell.clone();
            async move { drop(tell.send(news).await) }
        });
        tokio::select! {
            () = watching => {}
            _ = stopped => {}
        }
    });
    Followed { entry, _stop: stop }
}

/// Asks a server what it offers, again and again.
async fn keep_known<F: Future<Output = ()>>(
    upstream: Arc<Upstream>,
    process: Option<StdioLink>,
    pool: Arc<Pool>,
    changed: mpsc::Sender<()>,
    mut changes: mpsc::Receiver<()>,
    tell: impl Fn(Known) -> F,
) {
    let mut phase = process.as_ref().map(StdioLink::phase);
    let links = match links_to(&upstream, process) {
        Ok(links) => std::rc::Rc::new(links),
        Err(reason) => {
            tell(Known { error: Some(reason), ..Known::default() }).await;
            return;
        }
    };
    let mut known = Known::default();
    let mut pause = PAUSE_MIN;
    let mut listening: Option<oneshot::Sender<()>> = None;
    let (speaks, spoken_now) = watch::channel(None);
    let checking = check_all(pool.clone(), links.clone(), spoken_now);
    // Its future lives as long as this one, so that it ends with it.
    let mut checking = std::pin::pin!(async {
        checking.await;
        std::future::pending::<()>().await;
    });
    loop {
        let discovered = tokio::select! {
            found = discover_any(&upstream, &links, &pool) => found,
            () = &mut checking => continue,
        };
        let wait = match discovered {
            Ok((at, (spoken, capabilities, lists, holds))) => {
                speaks.send_replace(Some(spoken));
                if known.error.is_some() || known.spoken != Some(spoken) {
                    tracing::info!(
                        upstream = upstream.name,
                        revision = spoken.version(),
                        tools = lists.tools.len(),
                        "an upstream answers"
                    );
                }
                known = Known {
                    spoken: Some(spoken),
                    error: None,
                    read_ms: now_ms(),
                    lists: Arc::new(lists),
                    capabilities: Arc::new(capabilities),
                };
                pause = PAUSE_MIN;
                let listens = spoken == Spoken::Modern && can_tell(&known.capabilities);
                if listens && listening.as_ref().is_none_or(oneshot::Sender::is_closed) {
                    let (stop, stopped) = oneshot::channel();
                    listening = Some(stop);
                    runtime::spawn(listen(links.clone(), at, changed.clone(), stopped));
                }
                holds.unwrap_or(upstream.refresh)
            }
            Err(broken) => {
                if known.error.is_none() {
                    tracing::warn!(upstream = upstream.name, %broken, "an upstream does not answer");
                }
                known.error = Some(broken.to_string());
                let wait = pause;
                pause = (pause * 2).min(PAUSE_MAX);
                wait
            }
        };
        tell(known.clone()).await;
        let phase_changed = async {
            match &mut phase {
                Some(phase) => drop(phase.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            _ = changes.recv() => {}
            () = phase_changed => {}
            () = &mut checking => {}
        }
    }
}

/// What the first endpoint that answers offers, those first that are well.
async fn discover_any(upstream: &Upstream, links: &[Link], pool: &Pool) -> Result<(usize, Discovered), Broken> {
    let well = pool.well(now());
    let mut order: Vec<usize> = (0..links.len()).collect();
    order.sort_by_key(|at| well >> at & 1 == 0);
    let mut last = Broken::Unreachable("it has no endpoint".to_owned());
    for at in order {
        match discover(upstream, &links[at]).await {
            Ok(discovered) => return Ok((at, discovered)),
            Err(broken) => last = broken,
        }
    }
    Err(last)
}

/// The ways to a server for one core, one to each endpoint.
///
/// # Errors
/// What is wrong with what was declared.
pub(crate) fn links_to(upstream: &Upstream, process: Option<StdioLink>) -> Result<Vec<Link>, String> {
    match (&upstream.reach, process) {
        (Reach::Http { urls, headers, authority }, _) => {
            urls.iter().map(|url| HttpLink::new(url, headers, authority.as_deref()).map(Link::Http)).collect()
        }
        (Reach::Stdio { .. }, Some(process)) => Ok(vec![Link::Stdio(process)]),
        (Reach::Stdio { .. }, None) => Err("its process was not started".to_owned()),
    }
}

/// Asks a server once what it offers, and tells it as JSON: `error` is null when it answered.
pub async fn examine(upstream: Upstream) -> Value {
    let begun = std::time::Instant::now();
    let (changed, _changes) = mpsc::channel(1);
    let process = program(&upstream).map(|program| StdioLink::start(program, changed));
    if let Some(process) = &process {
        let mut phase = process.phase();
        // An error means that the process is given up, which its phase has told.
        let settled = phase.wait_for(|phase| !matches!(phase, Phase::Starting));
        let _ = timeout(ASK_TIMEOUT, settled).await;
    }
    let found = match links_to(&upstream, process) {
        // Every endpoint must answer, and the first tells what they offer.
        Ok(links) => {
            let all = futures_util::future::join_all(links.iter().map(|link| discover(&upstream, link))).await;
            let mut all = all.into_iter().enumerate().map(|(at, found)| match &upstream.reach {
                Reach::Http { urls, .. } if 1 < urls.len() => found.map_err(|broken| format!("{}: {broken}", urls[at])),
                _ => found.map_err(|broken| broken.to_string()),
            });
            let first = all.next().unwrap_or_else(|| Err("it has no endpoint".to_owned()));
            all.find_map(Result::err).map_or(first, Err)
        }
        Err(reason) => Err(reason),
    };
    let took_ms = begun.elapsed().as_millis() as u64;
    match found {
        Ok((spoken, _, lists, _)) => json!({
            "name": upstream.name, "error": null, "revision": spoken.version(), "tools": lists.tools.len(),
            "prompts": lists.prompts.len(), "resources": lists.resources.len() + lists.templates.len(), "took_ms": took_ms,
        }),
        Err(error) => json!({ "name": upstream.name, "error": error, "took_ms": took_ms }),
    }
}

/// How to start a server that is a process.
fn program(upstream: &Upstream) -> Option<Program> {
    let Reach::Stdio { command, environment, directory } = &upstream.reach else { return None };
    Some(Program {
        name: upstream.name.clone(),
        command: command.clone(),
        environment: environment.clone().into_iter().collect(),
        directory: directory.clone(),
        era: upstream.era,
    })
}

type Discovered = (Spoken, Value, Lists, Option<Duration>);

async fn discover(upstream: &Upstream, link: &Link) -> Result<Discovered, Broken> {
    let (spoken, about) = match link {
        Link::Stdio(process) => match &*process.phase().borrow() {
            Phase::Up(spoken, about) => (*spoken, (**about).clone()),
            Phase::Starting => return Err(Broken::Unreachable("its process has not answered yet".to_owned())),
            Phase::Down(reason) => return Err(Broken::Unreachable(reason.clone())),
        },
        Link::Http(http) => era_of(upstream.era, http).await?,
    };
    let capabilities = about.get("capabilities").cloned().unwrap_or_default();
    let mut lists = Lists::default();
    let mut holds = None;
    if capabilities.get("tools").is_some() {
        lists.tools = list(link, spoken, "tools", "tools/list", "name", &mut holds).await?;
    }
    if capabilities.get("prompts").is_some() {
        lists.prompts = list(link, spoken, "prompts", "prompts/list", "name", &mut holds).await?;
    }
    if capabilities.get("resources").is_some() {
        lists.resources = list(link, spoken, "resources", "resources/list", "uri", &mut holds).await?;
        let templates =
            list(link, spoken, "resourceTemplates", "resources/templates/list", "uriTemplate", &mut holds).await;
        // Some servers have resources and no method for templates.
        lists.templates = templates.or_else(|broken| match broken {
            Broken::Unsupported(_) => Ok(Vec::new()),
            broken => Err(broken),
        })?;
    }
    Ok((spoken, capabilities, lists, holds))
}

/// The newest that a server speaks of what we may, and what it says of itself.
async fn era_of(era: Era, http: &HttpLink) -> Result<(Spoken, Value), Broken> {
    if era != Era::Legacy {
        let asked = exchange(1, "server/discover", json!({}));
        let answer = match timeout(ASK_TIMEOUT, http.send(Spoken::Modern, &asked)).await {
            Ok(Ok(reply)) => timeout(ASK_TIMEOUT, reply.answer()).await.map_err(|_| Broken::Timeout(ASK_TIMEOUT))?,
            Ok(Err(broken)) => Err(broken),
            Err(_) => return Err(Broken::Timeout(ASK_TIMEOUT)),
        };
        match answer {
            Ok((_, message)) => {
                let read = Message::read(&message).map_err(Broken::Garbage)?;
                if let Some(result) = read.result {
                    let about = serde_json::from_str(result.get()).unwrap_or_default();
                    return Ok((Spoken::Modern, about));
                }
                if era == Era::Modern {
                    let told = read.error.map_or("", |error| error.get());
                    return Err(Broken::Garbage(format!("it refused server/discover: {told}")));
                }
            }
            // A server of before answers a request without a session with whatever it likes.
            Err(Broken::Garbage(_) | Broken::SessionLost) if era == Era::Auto => {}
            Err(broken) => return Err(broken),
        }
    }
    let (version, answer) = http.initialize().await?;
    let about = Message::read(&answer).ok().and_then(|message| message.result);
    let about = about.and_then(|result| serde_json::from_str(result.get()).ok()).unwrap_or_default();
    Ok((Spoken::Legacy(version), about))
}

/// A whole list, page by page.
async fn list(
    link: &Link,
    spoken: Spoken,
    member: &str,
    method: &str,
    key: &str,
    holds: &mut Option<Duration>,
) -> Result<Vec<Listed>, Broken> {
    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    for page_number in 0..PAGES_MAX {
        let params = cursor.as_ref().map_or_else(|| json!({}), |cursor| json!({ "cursor": cursor }));
        let asked = exchange(page_number as u64 + 1, method, params);
        let reply = timeout(ASK_TIMEOUT, async { link.send(spoken, &asked).await?.answer().await }).await;
        let (_, message) = reply.map_err(|_| Broken::Timeout(ASK_TIMEOUT))??;
        let read = Message::read(&message).map_err(Broken::Garbage)?;
        let Some(result) = read.result else {
            return Err(Broken::Unsupported(format!("{method}: {}", read.error.map_or("", |error| error.get()))));
        };
        let wrong = |error: &dyn std::fmt::Display| Broken::Garbage(format!("{method}: {error}"));
        let page: BTreeMap<String, &RawValue> = serde_json::from_str(result.get()).map_err(|error| wrong(&error))?;
        let listed: Vec<&RawValue> = match page.get(member) {
            Some(listed) => serde_json::from_str(listed.get()).map_err(|error| wrong(&error))?,
            None => return Err(wrong(&format!("no {member:?} in it"))),
        };
        let ttl_ms = page.get("ttlMs").and_then(|ttl| serde_json::from_str::<u64>(ttl.get()).ok());
        if let Some(ttl_ms) = ttl_ms.filter(|ttl_ms| 0 < *ttl_ms) {
            let ttl = Duration::from_millis(ttl_ms).max(HOLDS_MIN);
            *holds = Some(holds.map_or(ttl, |holds| holds.min(ttl)));
        }
        for row in listed {
            let members: BTreeMap<String, &RawValue> =
                serde_json::from_str(row.get()).map_err(|error| wrong(&error))?;
            let named = members.get(key).and_then(|value| serde_json::from_str::<String>(value.get()).ok());
            let Some(named) = named else { return Err(wrong(&format!("a row without {key:?}"))) };
            rows.push(Listed { key: named, json: row.get().to_owned() });
            if ROWS_MAX < rows.len() {
                return Err(wrong(&format!("more than {ROWS_MAX} rows")));
            }
        }
        cursor =
            page.get("nextCursor").and_then(|next| serde_json::from_str::<Option<String>>(next.get()).ok()).flatten();
        if cursor.is_none() {
            return Ok(rows);
        }
    }
    Err(Broken::Garbage(format!("{method}: more than {PAGES_MAX} pages")))
}

/// Whether a server tells when its lists change.
fn can_tell(capabilities: &Value) -> bool {
    ["tools", "prompts", "resources"].iter().any(|list| capabilities[list]["listChanged"] == true)
}

/// Listens to a server of the modern era for changes of its lists, until it ends or is told to stop.
async fn listen(links: std::rc::Rc<Vec<Link>>, at: usize, changed: mpsc::Sender<()>, stopped: oneshot::Receiver<()>) {
    let wanted = json!({ "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true });
    let asked = exchange(1, "subscriptions/listen", json!({ "notifications": wanted }));
    let heard = async {
        let Ok(Reply::Stream(mut messages)) = links[at].send(Spoken::Modern, &asked).await else { return };
        while let Some(true) = hear(&mut messages, &changed).await {}
    };
    tokio::select! {
        () = heard => {}
        _ = stopped => {}
    }
}

/// One message of a listener. `None` at the end.
async fn hear(messages: &mut Messages, changed: &mpsc::Sender<()>) -> Option<bool> {
    let message = messages.next().await.ok()??;
    let read = Message::read(&message).ok()?;
    if read.method.as_deref().is_some_and(|method| method.ends_with("/list_changed")) {
        // One that waits already says the same.
        let _ = changed.try_send(());
    }
    Some(read.method.is_some())
}

/// A request of the gateway's own.
pub(super) fn exchange(id: u64, method: &str, mut params: Value) -> Exchange {
    params["_meta"] = own_meta();
    Exchange {
        method: method.to_owned(),
        name: None,
        body: request(id, method, &params),
        mirrored: Vec::new(),
        session: None,
    }
}

/// What the gateway's own requests say of themselves.
pub(crate) fn own_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "qmesh", "version": env!("CARGO_PKG_VERSION") },
    })
}
