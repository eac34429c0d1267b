//! A filter that is nothing but a list of ids is a look-up in disguise: like any look-up, it can see the transaction's own
//! writes.

use ::qdrant_client::qdrant::condition::ConditionOneOf;
use ::qdrant_client::qdrant::point_id::PointIdOptions;
use ::qdrant_client::qdrant::{Filter, PointId, ScrollPoints};
use serde_json::{Value, json};

use super::ids;

/// The ids that a filter lists, each once and in the server's order, where it says nothing else.
pub(super) fn listed(filter: Option<&Filter>) -> Option<Vec<PointId>> {
    let filter = filter?;
    let only_must = filter.should.is_empty() && filter.must_not.is_empty() && filter.min_should.is_none();
    let [condition] = filter.must.as_slice() else { return None };
    let (true, Some(ConditionOneOf::HasId(listed))) = (only_must, &condition.condition_one_of) else { return None };
    let mut points = listed.has_id.clone();
    points.sort_by(|a, b| place(a).cmp(&place(b)));
    points.dedup();
    Some(points)
}

/// Numbers come before UUIDs.
fn place(point: &PointId) -> (bool, u64, &str) {
    match &point.point_id_options {
        Some(PointIdOptions::Num(number)) => (false, *number, ""),
        Some(PointIdOptions::Uuid(uuid)) => (true, 0, uuid),
        None => (true, 0, ""),
    }
}

/// A scroll over such a list: its filter's points, from its offset on.
pub(super) fn scrolled(request: &ScrollPoints) -> Option<Vec<PointId>> {
    if request.order_by.is_some() {
        return None;
    }
    let mut points = listed(request.filter.as_ref())?;
    if let Some(offset) = &request.offset {
        points.retain(|point| place(point) >= place(offset));
    }
    Some(points)
}

/// A page of `found`, as the server would cut it.
pub(super) fn page(found: Vec<(PointId, Value)>, limit: Option<u32>) -> Value {
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    let next = found.get(limit).map(|(point, _)| ids::show(Some(point)));
    let points: Vec<Value> = found.into_iter().take(limit).map(|(_, shown)| shown).collect();
    json!({"points": points, "next_page_offset": next})
}

#[cfg(test)]
mod tests {
    use super::super::reads::{Read, read};
    use super::*;
    use crate::model::request::Verb;

    fn scroll(body: &Value) -> ScrollPoints {
        match read(Verb::Scroll, body, "c") {
            Ok(Read::Scroll(request, _)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_list_of_ids_is_a_look_up() {
        let uuid = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26";
        let request = scroll(&json!({"filter": {"must": [{"has_id": [uuid, 9, 2, 9]}]}, "offset": 5}));
        let shown: Vec<Value> = scrolled(&request).unwrap().iter().map(|point| ids::show(Some(point))).collect();
        assert_eq!(shown, [json!(9), json!(uuid)]);
        for more in [
            json!({"filter": {"should": [{"has_id": [1]}]}}),
            json!({"filter": {"must": [{"has_id": [1]}, {"key": "a", "match": {"value": 1}}]}}),
            json!({"filter": {"must": [{"has_id": [1]}], "must_not": [{"key": "a", "match": {"value": 1}}]}}),
            json!({"filter": {"must": [{"has_id": [1]}]}, "order_by": "a"}),
            json!({}),
        ] {
            assert!(scrolled(&scroll(&more)).is_none(), "{more}");
        }
    }

    #[test]
    fn a_page_says_where_the_next_begins() {
        let found = |ids: &[u64]| ids.iter().map(|id| (PointId::from(*id), json!({"id": id}))).collect();
        let page = page(found(&[1, 2, 3]), Some(2));
        assert_eq!(page, json!({"points": [{"id": 1}, {"id": 2}], "next_page_offset": 3}));
        assert_eq!(super::page(found(&[1]), Some(1))["next_page_offset"], Value::Null);
    }
}
