use proptest::prelude::*;

use super::*;

const PG: Powers = Powers { prepare: true, mark: true, redo: false };
const PG_WITHOUT: Powers = Powers { prepare: false, mark: true, redo: false };
const NEO: Powers = PG_WITHOUT;
const QDRANT: Powers = Powers { prepare: false, mark: false, redo: true };

fn part(store: &str, powers: Powers) -> Part {
    Part { store: store.into(), powers, writes: true }
}

fn shape(parts: &[Part]) -> (String, Vec<String>, Vec<String>) {
    let plan = Plan::new(parts).unwrap();
    let names = |list: &[StoreName]| list.iter().map(ToString::to_string).collect();
    (plan.decider.as_ref().map_or("-".into(), ToString::to_string), names(&plan.preparers), names(&plan.redoers))
}

#[test]
fn the_six_plans() {
    let (pg, graph, vec) = (part("pg", PG), part("graph", NEO), part("vec", QDRANT));
    let none: Vec<String> = vec![];
    let some = |s: &str| vec![s.to_string()];
    assert_eq!(shape(std::slice::from_ref(&pg)), ("pg".into(), none.clone(), none.clone()));
    assert_eq!(shape(std::slice::from_ref(&graph)), ("graph".into(), none.clone(), none.clone()));
    assert_eq!(shape(&[pg.clone(), vec.clone()]), ("pg".into(), none.clone(), some("vec")));
    assert_eq!(shape(&[pg.clone(), graph.clone()]), ("graph".into(), some("pg"), none.clone()));
    assert_eq!(shape(&[pg, graph, vec.clone()]), ("graph".into(), some("pg"), some("vec")));
    assert_eq!(shape(&[vec]), ("wal".into(), none.clone(), some("vec")));
}

#[test]
fn two_that_cannot_promise_are_refused_by_name() {
    let problem = Plan::new(&[part("g1", NEO), part("g2", NEO)]).unwrap_err();
    assert_eq!(problem.code, Code::ImpossibleGuarantee);
    assert!(problem.detail.contains("g1 and g2"), "{}", problem.detail);
    assert!(Plan::new(&[part("pg", PG_WITHOUT), part("graph", NEO)]).is_err());
    assert!(Plan::new(&[part("pg", PG_WITHOUT), Part { writes: false, ..part("graph", NEO) }]).is_ok());
}

#[test]
fn readers_take_no_part() {
    let plan = Plan::new(&[Part { writes: false, ..part("pg", PG) }]).unwrap();
    assert_eq!((plan.decider.clone(), plan.role(&"pg".into())), (None, Role::Reader));
}

proptest! {
    /// Whatever the powers: one decider, everybody has exactly one role, and nobody is asked for what it cannot do.
    #[test]
    fn roles_fit_powers(kinds in prop::collection::vec((0usize..4, any::<bool>()), 1..6)) {
        let all = [PG, PG_WITHOUT, NEO, QDRANT];
        let parts: Vec<_> = kinds.iter().enumerate()
            .map(|(i, (kind, writes))| Part { writes: *writes, ..part(&format!("s{i}"), all[*kind]) }).collect();
        let only_mark = parts.iter().filter(|p| p.writes && p.powers.mark && !p.powers.prepare).count();
        match Plan::new(&parts) {
            Err(problem) => prop_assert!(only_mark > 1, "{}", problem),
            Ok(plan) => {
                prop_assert!(only_mark <= 1);
                for p in &parts {
                    let role = plan.role(&p.store);
                    prop_assert_eq!(role == Role::Reader, !p.writes);
                    let able = match role {
                        Role::Reader => true,
                        Role::Decider => p.powers.mark,
                        Role::Preparer => p.powers.prepare,
                        Role::Redoer => p.powers.redo,
                        Role::Undecided => false,
                    };
                    prop_assert!(able);
                }
                prop_assert_eq!(plan.decider.is_none(), parts.iter().all(|p| !p.writes));
                // To be held, nobody who can promise decides.
                let held = Plan::to_hold(&parts).unwrap();
                let decides = |p: &&Part| held.role(&p.store) == Role::Decider;
                prop_assert!(parts.iter().filter(decides).all(|p| !p.powers.prepare));
                let promises = parts.iter().filter(|p| p.writes && p.powers.prepare && p.powers.mark);
                prop_assert!(promises.map(|p| held.role(&p.store)).all(|role| role == Role::Preparer));
                prop_assert!(held.decider.is_some());
            }
        }
    }
}
