//! Read verbs: Qdrant's REST bodies → its gRPC requests, and the answers back.

use ::qdrant_client::qdrant::point_id::PointIdOptions;
use ::qdrant_client::qdrant::with_payload_selector::SelectorOptions as PayloadOptions;
use ::qdrant_client::qdrant::with_vectors_selector::SelectorOptions as VectorOptions;
use ::qdrant_client::qdrant::{
    CountPoints, GetPoints, OrderValue, PayloadExcludeSelector, PayloadIncludeSelector, PointId, QueryPoints,
    RetrievedPoint, ScoredPoint, ScrollPoints, ScrollResponse, VectorsSelector, WithPayloadSelector,
    WithVectorsSelector, order_value,
};
use serde_json::{Map, Value, json};

use super::json::{Bad, Inside, Members, count, flag, list, of_float, small_count, text};
use super::overlay::Seen;
use super::{filters, ids, paths, queries, values};
use crate::model::request::Verb;

/// One read as asked for.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Read {
    /// By ids: sees the transaction's own writes.
    Retrieve(Vec<PointId>, With),
    /// Page by page.
    Scroll(ScrollPoints, With),
    /// The universal query.
    Query(Box<QueryPoints>, With),
    /// How many.
    Count(CountPoints),
}

/// How much of each point to show.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct With {
    payload: Payload,
    vectors: Vectors,
}

#[derive(Clone, PartialEq, Debug)]
enum Payload {
    None,
    All,
    Include(Vec<String>),
    Exclude(Vec<String>),
}

#[derive(Clone, PartialEq, Debug)]
enum Vectors {
    None,
    All,
    Named(Vec<String>),
}

/// Reads the body of a read verb.
pub(super) fn read(verb: Verb, body: &Value, collection: &str) -> Result<Read, Bad> {
    let mut members = Members::of(body)?;
    let collection_name = collection.to_owned();
    let read = match verb {
        Verb::Retrieve => {
            let ids = members.need("ids", |value| list(value, ids::read))?;
            Read::Retrieve(ids, With::take(&mut members, Payload::All)?)
        }
        Verb::Scroll => {
            let with = With::take(&mut members, Payload::All)?;
            let request = ScrollPoints {
                collection_name,
                filter: members.read("filter", filters::filter)?,
                offset: members.read("offset", ids::read)?,
                limit: Some(members.read("limit", small_count)?.unwrap_or(10)),
                order_by: members.read("order_by", queries::order_by)?,
                with_payload: Some(with.payload_selector()),
                with_vectors: Some(with.vectors_selector()),
                ..ScrollPoints::default()
            };
            Read::Scroll(request, with)
        }
        Verb::Query => {
            let with = With::take(&mut members, Payload::None)?;
            let request = QueryPoints {
                with_payload: Some(with.payload_selector()),
                with_vectors: Some(with.vectors_selector()),
                ..queries::query(&mut members, collection_name)?
            };
            Read::Query(Box::new(request), with)
        }
        Verb::Count => Read::Count(CountPoints {
            collection_name,
            filter: members.read("filter", filters::filter)?,
            exact: Some(members.read("exact", flag)?.unwrap_or(true)),
            ..CountPoints::default()
        }),
        _ => return Err(Bad::new("is not a read")),
    };
    members.done()?;
    Ok(read)
}

impl With {
    /// Nothing but ids.
    pub(super) const NOTHING: Self = Self { payload: Payload::None, vectors: Vectors::None };
    /// Everything.
    pub(super) const ALL: Self = Self { payload: Payload::All, vectors: Vectors::All };
    /// The payload alone.
    pub(super) const PAYLOAD: Self = Self { payload: Payload::All, vectors: Vectors::None };

    fn take(members: &mut Members<'_>, default: Payload) -> Result<Self, Bad> {
        let paths = |value| list(value, paths::read);
        let payload = members.read("with_payload", |value| match value {
            Value::Bool(true) => Ok(Payload::All),
            Value::Bool(false) => Ok(Payload::None),
            Value::Array(_) => Ok(Payload::Include(paths(value)?)),
            _ => {
                let mut members = Members::of(value)?;
                let selected = match (members.read("include", paths)?, members.read("exclude", paths)?) {
                    (Some(include), None) => Payload::Include(include),
                    (None, Some(exclude)) => Payload::Exclude(exclude),
                    _ => return Err(Bad::new("takes either `include` or `exclude`")),
                };
                members.done()?;
                Ok(selected)
            }
        })?;
        let vectors = members.read("with_vector", |value| match value {
            Value::Bool(true) => Ok(Vectors::All),
            Value::Bool(false) => Ok(Vectors::None),
            names => Ok(Vectors::Named(list(names, text)?)),
        })?;
        Ok(Self { payload: payload.unwrap_or(default), vectors: vectors.unwrap_or(Vectors::None) })
    }

    pub(super) fn payload_selector(&self) -> WithPayloadSelector {
        let options = match &self.payload {
            Payload::None => PayloadOptions::Enable(false),
            Payload::All => PayloadOptions::Enable(true),
            Payload::Include(fields) => PayloadOptions::Include(PayloadIncludeSelector { fields: fields.clone() }),
            Payload::Exclude(fields) => PayloadOptions::Exclude(PayloadExcludeSelector { fields: fields.clone() }),
        };
        WithPayloadSelector { selector_options: Some(options) }
    }

    pub(super) fn vectors_selector(&self) -> WithVectorsSelector {
        let options = match &self.vectors {
            Vectors::None => VectorOptions::Enable(false),
            Vectors::All => VectorOptions::Enable(true),
            Vectors::Named(names) => VectorOptions::Include(VectorsSelector { names: names.clone() }),
        };
        WithVectorsSelector { selector_options: Some(options) }
    }

    /// A look-up of these points with this much of each.
    pub(super) fn get(&self, collection: &str, ids: Vec<PointId>) -> GetPoints {
        GetPoints {
            collection_name: collection.to_owned(),
            ids,
            with_payload: Some(self.payload_selector()),
            with_vectors: Some(self.vectors_selector()),
            ..GetPoints::default()
        }
    }

    /// Takes away from a whole point what was not asked for, as the server would have done.
    pub(super) fn cut(&self, mut seen: Seen) -> Seen {
        seen.payload = match &self.payload {
            Payload::None => Map::new(),
            Payload::All => seen.payload,
            Payload::Include(fields) => {
                paths::parse_all(fields).map(|paths| paths::include(&paths, &seen.payload)).unwrap_or_default()
            }
            Payload::Exclude(fields) => {
                paths::parse_all(fields).map(|paths| paths::exclude(&paths, &seen.payload)).unwrap_or_default()
            }
        };
        match &self.vectors {
            Vectors::None => seen.vectors.clear(),
            Vectors::All => {}
            Vectors::Named(names) => seen.vectors.retain(|name, _| names.contains(name)),
        }
        seen
    }

    /// A point as the REST API shows it: members that were not asked for are absent.
    pub(super) fn show(&self, id: Option<&PointId>, seen: Seen) -> Map<String, Value> {
        let mut shown = Map::new();
        shown.insert("id".to_owned(), ids::show(id));
        if self.payload != Payload::None {
            shown.insert("payload".to_owned(), Value::Object(seen.payload));
        }
        if let Some(vectors) = values::show_vectors(&seen.vectors) {
            shown.insert("vector".to_owned(), vectors);
        }
        shown
    }

    /// The answer of a scroll.
    pub(super) fn show_page(&self, page: ScrollResponse) -> Value {
        let next = page.next_page_offset.filter(|id| id.point_id_options != Some(PointIdOptions::Uuid(String::new())));
        let points: Vec<_> = page.result.into_iter().map(|point| self.show_retrieved(point)).collect();
        json!({"points": points, "next_page_offset": ids::show(next.as_ref())})
    }

    fn show_retrieved(&self, mut point: RetrievedPoint) -> Map<String, Value> {
        let (id, order) = (point.id.take(), point.order_value.take());
        let mut shown = self.show(id.as_ref(), point.into());
        shown.extend(order.and_then(show_order).map(|order| ("order_value".to_owned(), order)));
        shown
    }

    /// One point of a query's answer.
    pub(super) fn show_scored(&self, mut point: ScoredPoint) -> Map<String, Value> {
        let (id, order) = (point.id.take(), point.order_value.take());
        let seen = Seen { payload: values::show_payload(point.payload), vectors: values::sent(point.vectors) };
        let mut shown = self.show(id.as_ref(), seen);
        shown.insert("version".to_owned(), Value::from(point.version));
        shown.insert("score".to_owned(), of_float(point.score));
        shown.extend(order.and_then(show_order).map(|order| ("order_value".to_owned(), order)));
        shown
    }
}

fn show_order(order: OrderValue) -> Option<Value> {
    order.variant.map(|variant| match variant {
        order_value::Variant::Int(number) => Value::from(number),
        order_value::Variant::Float(number) => Value::from(number),
    })
}

/// A whole number that a `u64` member wants.
pub(super) fn limit(members: &mut Members<'_>, name: &'static str) -> Result<Option<u64>, Bad> {
    members.take(name).map(count).transpose().inside(name)
}
