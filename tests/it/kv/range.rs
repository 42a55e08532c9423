//! Range: every option, alone and with every other, against a model that does what the documentation says.

use crate::harness::grpc::{put, range, text};
use crate::harness::{Setup, for_each_backend, refused};
use castd_proto::etcdserverpb::RangeRequest;
use etcd_client::{DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget};
use std::collections::BTreeMap;
use tonic::Code;

for_each_backend!(
    every_combination_of_range_options_gives_what_a_naive_model_gives,
    reads_are_refused_beyond_the_newest_and_below_the_compacted_revision,
    keys_may_be_any_bytes,
    a_limit_without_an_order_is_taken_before_sorting_by_another_target,
);
for_each_backend!(castd: unknown_sort_options_are_refused);

/// A pair as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    key: Vec<u8>,
    value: Vec<u8>,
    created: i64,
    modified: i64,
    version: i64,
    lease: i64,
}

type State = BTreeMap<Vec<u8>, Pair>;

/// The state after each revision.
type History = BTreeMap<i64, State>;

fn put_into(history: &mut History, revision: i64, key: &str, value: &str, lease: i64) {
    let mut state = history.last_key_value().map(|(_, state)| state.clone()).unwrap_or_default();
    let (created, version) = state.get(key.as_bytes()).map_or((revision, 0), |old| (old.created, old.version));
    let pair = Pair { key: key.into(), value: value.into(), created, modified: revision, version: version + 1, lease };
    state.insert(pair.key.clone(), pair);
    history.insert(revision, state);
}

/// Twelve keys of different ages, versions and values, none equal in any of these so that no order is left open.
async fn fill(client: &mut etcd_client::Client, history: &mut History) {
    let lease = client.lease_grant(3_600, None).await.expect("granted").id();
    for round in 0..12 {
        for index in 0..12 {
            // Key n is written in the first (n * 5) % 12 + 1 rounds: versions are a permutation of 1..=12.
            if (index * 5) % 12 < round {
                continue;
            }
            let key = format!("{}{index:02}", if index % 3 == 0 { "a" } else { "b" });
            let value = format!("{}", (index * 7 + round * 31) % 97);
            let with_lease = if index % 4 == 1 { lease } else { 0 };
            let answer = client.put(key.as_str(), value.as_str(), Some(PutOptions::new().with_lease(with_lease))).await;
            let revision = answer.expect("put").header().expect("a header").revision();
            put_into(history, revision, &key, &value, with_lease);
        }
    }
    let deleted = client.delete("b02", Some(DeleteOptions::new())).await.expect("deleted");
    let mut state = history.last_key_value().expect("not empty").1.clone();
    state.remove(b"b02".as_slice());
    history.insert(deleted.header().expect("a header").revision(), state);
}

#[derive(Clone, Copy, Debug)]
struct Question {
    /// Key, end, and whether the end is the first key after a prefix.
    span: (&'static str, &'static str),
    revision: i64,
    target: SortTarget,
    order: SortOrder,
    limit: i64,
    filter: Filter,
    keys_only: bool,
    count_only: bool,
    serializable: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Filter {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filter {
    fn keeps(&self, pair: &Pair) -> bool {
        (self.min_mod == 0 || pair.modified >= self.min_mod)
            && (self.max_mod == 0 || pair.modified <= self.max_mod)
            && (self.min_create == 0 || pair.created >= self.min_create)
            && (self.max_create == 0 || pair.created <= self.max_create)
    }

    fn is_none(&self) -> bool {
        self.min_mod == 0 && self.max_mod == 0 && self.min_create == 0 && self.max_create == 0
    }
}

/// (pairs, more, count)
fn expected(state: &State, question: &Question, keeps_lease: bool) -> (Vec<Pair>, bool, i64) {
    let (key, end) = (question.span.0.as_bytes(), question.span.1.as_bytes());
    let mut pairs: Vec<Pair> = state
        .values()
        .filter(|pair| match end {
            b"" => pair.key == key,
            b"\0" => pair.key.as_slice() >= key,
            _ => pair.key.as_slice() >= key && pair.key.as_slice() < end,
        })
        .cloned()
        .collect();
    let count = pairs.len() as i64;
    if question.count_only {
        return (Vec::new(), false, count);
    }
    let limit = question.limit as usize;
    if limit > 0 && question.order == SortOrder::None && question.filter.is_none() {
        pairs.truncate(limit + 1);
    }
    pairs.retain(|pair| question.filter.keeps(pair));
    match question.target {
        SortTarget::Key => {}
        SortTarget::Version => pairs.sort_by_key(|pair| pair.version),
        SortTarget::Create => pairs.sort_by_key(|pair| pair.created),
        SortTarget::Mod => pairs.sort_by_key(|pair| pair.modified),
        SortTarget::Value => pairs.sort_by(|one, other| one.value.cmp(&other.value)),
    }
    if question.order == SortOrder::Descend {
        pairs.reverse();
    }
    let more = limit > 0 && pairs.len() > limit;
    if more {
        pairs.truncate(limit);
    }
    if question.keys_only {
        for pair in &mut pairs {
            pair.value.clear();
            if !keeps_lease && question.target != SortTarget::Value {
                pair.lease = 0;
            }
        }
    }
    (pairs, more, count)
}

fn options(question: &Question) -> GetOptions {
    let mut options = GetOptions::new()
        .with_range(question.span.1)
        .with_revision(question.revision)
        .with_limit(question.limit)
        .with_sort(question.target, question.order)
        .with_min_mod_revision(question.filter.min_mod)
        .with_max_mod_revision(question.filter.max_mod)
        .with_min_create_revision(question.filter.min_create)
        .with_max_create_revision(question.filter.max_create);
    if question.keys_only {
        options = options.with_keys_only();
    }
    if question.count_only {
        options = options.with_count_only();
    }
    if question.serializable {
        options = options.with_serializable();
    }
    options
}

fn questions(history: &History) -> Vec<Question> {
    let newest = *history.last_key_value().expect("not empty").0;
    let filters = [
        Filter::default(),
        Filter { min_mod: newest / 2, ..Filter::default() },
        Filter { max_mod: newest - 9, min_create: 4, ..Filter::default() },
        Filter { min_mod: 12, max_mod: newest - 5, max_create: 9, ..Filter::default() },
    ];
    let spans = [("a", "b"), ("b", "b06"), ("\0", "\0"), ("a09", "\0"), ("b04", ""), ("nothing", ""), ("b06", "b01")];
    let targets = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
    let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
    let mut questions = Vec::new();
    for span in spans {
        for revision in [0, newest, newest - 1, 9] {
            for target in targets {
                for order in orders {
                    for limit in [0, 1, 4, 50] {
                        for filter in filters {
                            for (keys_only, count_only) in [(false, false), (true, false), (false, true)] {
                                let serializable = questions.len() % 2 == 0;
                                questions.push(Question {
                                    span,
                                    revision,
                                    target,
                                    order,
                                    limit,
                                    filter,
                                    keys_only,
                                    count_only,
                                    serializable,
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    // At revision 9 values and versions are not all different yet.
    questions.retain(|question| {
        question.revision != 9 || !matches!(question.target, SortTarget::Version | SortTarget::Value)
    });
    questions
}

async fn every_combination_of_range_options_gives_what_a_naive_model_gives(setup: Setup) {
    let keeps_lease = setup.is_etcd();
    let server = setup.start();
    let mut client = server.client().await;
    let mut history = History::new();
    fill(&mut client, &mut history).await;
    let newest = *history.last_key_value().expect("not empty").0;
    let questions = questions(&history);
    assert!(questions.len() > 10_000, "{}", questions.len());
    // A part of them, spread over all, is plenty for each run; which part depends on the backend's turn.
    for question in questions.iter().step_by(7) {
        let answer = client.get(question.span.0, Some(options(question))).await.expect("a range succeeds");
        let state = &history[&if question.revision == 0 { newest } else { question.revision }];
        let found: Vec<_> = answer
            .kvs()
            .iter()
            .map(|kv| Pair {
                key: kv.key().to_vec(),
                value: kv.value().to_vec(),
                created: kv.create_revision(),
                modified: kv.mod_revision(),
                version: kv.version(),
                lease: kv.lease(),
            })
            .collect();
        let expected = expected(state, question, keeps_lease);
        assert_eq!((found, answer.more(), answer.count()), expected, "{question:?}");
        assert_eq!(answer.header().expect("a header").revision(), newest, "{question:?}");
    }
}

async fn reads_are_refused_beyond_the_newest_and_below_the_compacted_revision(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    refused(api.range(range("", "")).await, Code::InvalidArgument, text::EMPTY_KEY);
    refused(api.range(range("", "z")).await, Code::InvalidArgument, text::EMPTY_KEY);

    for value in ["1", "2", "3"] {
        api.put("k", value).await;
    }
    let at = |revision| RangeRequest { revision, ..range("k", "") };
    refused(api.range(at(5)).await, Code::OutOfRange, text::FUTURE);
    refused(api.range(RangeRequest { serializable: true, ..at(9) }).await, Code::OutOfRange, text::FUTURE);
    assert!(api.range(at(1)).await.expect("before the first write").kvs.is_empty());

    api.compact(3, false).await.expect("compacted");
    refused(api.range(at(2)).await, Code::OutOfRange, text::COMPACTED);
    refused(api.range(RangeRequest { count_only: true, ..at(1) }).await, Code::OutOfRange, text::COMPACTED);
    assert_eq!(api.range(at(3)).await.expect("at the compacted revision").kvs[0].value, "2");
    assert_eq!(api.range(at(-1)).await.expect("a negative revision is the newest").kvs[0].value, "3");
    refused(api.range(at(5)).await, Code::OutOfRange, text::FUTURE);
}

async fn keys_may_be_any_bytes(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    let keys: [&[u8]; 7] = [b"\0", b"\0\0", b" ", b"a\0b", b"\x7f", b"\xff", b"\xff\xff\xfe"];
    for key in keys {
        client.put(key, [key, b"'s value"].concat(), None).await.expect("put");
    }
    let all = client.get(b"\0".as_slice(), Some(GetOptions::new().with_all_keys())).await.expect("all");
    assert_eq!(all.kvs().iter().map(|kv| kv.key()).collect::<Vec<_>>(), keys);
    for key in keys {
        let one = client.get(key, None).await.expect("one");
        assert_eq!((one.count(), one.kvs()[0].value()), (1, [key, b"'s value"].concat().as_slice()));
    }
    let last =
        client.get(b"\xff".as_slice(), Some(GetOptions::new().with_prefix())).await.expect("a prefix of all ones");
    assert_eq!(last.count(), 2);
    let empty = client.put("empty", "", None).await.expect("an empty value").header().expect("a header").revision();
    let read = client.get("empty", None).await.expect("read");
    assert_eq!((read.kvs()[0].value(), read.kvs()[0].mod_revision()), (b"".as_slice(), empty));
}

async fn a_limit_without_an_order_is_taken_before_sorting_by_another_target(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for (key, value) in [("a", "9"), ("b", "8"), ("c", "1")] {
        api.put(key, value).await;
    }
    let by_value = |sort_order| RangeRequest { limit: 1, sort_target: 4, sort_order, ..range("a", "\0") };
    // Two keys, one more than the limit, are collected; "c" is not among them.
    let answer = api.range(by_value(0)).await.expect("no order");
    assert_eq!((answer.kvs[0].key.as_ref(), answer.more, answer.count), (b"b".as_slice(), true, 3));
    let answer = api.range(by_value(1)).await.expect("ascending");
    assert_eq!((answer.kvs[0].key.as_ref(), answer.more, answer.count), (b"c".as_slice(), true, 3));
}

async fn unknown_sort_options_are_refused(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.put_with(put("a", "1")).await.expect("put");
    for (sort_order, sort_target) in [(3, 0), (0, 5), (-1, 0), (0, -1)] {
        let request = RangeRequest { sort_order, sort_target, ..range("a", "") };
        refused(api.range(request).await, Code::InvalidArgument, "etcdserver: invalid sort option");
    }
}
