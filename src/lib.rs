//! Outrigger: writes across PostgreSQL, Qdrant and Neo4j happen together or not at all.
//!
//! A sidecar process. An application posts one list of operations to it; the sidecar runs them inside the stores' own
//! transactions, lets every store that can promise to commit do so, and then lets exactly one place decide: the store
//! that cannot promise, else PostgreSQL, else our own write-ahead log. Whatever crashes in between, that one place can
//! be asked afterwards what was decided, and the rest is carried out. `README.md` says what is promised and what not.
//!
//! # The house
//!
//! A file names only floors below its own (`tests/tidy.rs` checks it). To find where a change belongs, ask what the
//! change is about and go to that floor.
//!
//! ```text
//!  7   main.rs  cli/               argv in, text out
//!  6   node.rs                     assembly: who is built from whom; start order; stop order
//!  5   http/                       the only door: routes, wire shapes, replies; the porch for probes
//!  4   txn/                        the coordinator: one run from plan to Done, retry, recovery, in doubt, janitor
//!  3   store/                      participants: postgres, neo4j, qdrant; one contract suite that all pass
//!  2   plan/ | journal/ | lock/    what to do | what we promised | who holds what
//!      audit                       who did what by hand
//!  1   config/  metrics/           what the operator wants, what the operator sees
//!      model/  clock  crash        nouns and the one transition table; nothing here waits
//!  0   outrigger_wal (a crate)     bytes with an Lsn; knows nothing of transactions
//! ```
//!
//! The rooms of floor 2 do not know each other, with one exception: `journal` writes down the claims that a transaction
//! holds, so it names `lock`'s nouns (`Claim`, `LockKey`, `Mode`) and nothing else of it.
//!
//! # The way of one request
//!
//! ```text
//! http: route → wire (JSON → TxnRequest, checked once, then trusted)
//!   → txn::Coordinator::submit      idempotency key known? give the recorded outcome
//!       → plan                      pure: powers → decider, preparers, redoers; or a refusal with its reason
//!       → lock                      declared keys, and every Qdrant point that is written, in sorted order
//!       → store: work               marker first, then the operations; parallel where nothing is referenced
//!       → store: validate           redo writes made absolute and checked: from here on they can only be late
//!       → journal: Intent  ∥  store: prepare                           both answered before the decision
//!       → decide                    the decider's marked commit, or the journal's forced Decision  → slip `Decided`
//!       → store: finish(&Decided)   repeated until each store has said yes
//!       → journal: Done             then locks drop, then the client is answered
//!   ← http: outcome → status, problem, advice on retrying
//! ```
//!
//! An interactive transaction takes the same way in pieces: its work is done call by call in a task of its own, its
//! sessions are settled at the commit, and from `validate` on it is the way above. A prepared one stops before the
//! decision and goes on from there when its verdict comes.
//!
//! Recovery ([`txn`]) walks in at the second half of this way; there is no second copy of it. An irreversible act wants
//! a slip that only the journal can write ([`journal`]), so code that acts before it is decided does not compile.
//!
//! # Words, one meaning each
//!
//! | our word | what it means | the literature's word |
//! |---|---|---|
//! | store, participant | a database that takes part in a transaction | resource manager |
//! | coordinator | the part of us that drives one transaction to its end | transaction manager |
//! | power | what a store can honestly do: `Prepare`, `Mark`, `Redo` | capability |
//! | decider | the one place whose own atomic commit *is* the decision | last resource; commit point site |
//! | preparer | a store that promises first and is told later | two-phase participant |
//! | prepare, vote | make a promise to commit durable; the answer to being asked for it | phase one, vote |
//! | finish | carry the decision out where it was only promised | phase two |
//! | redo | apply a write whose ids and values were fixed beforehand, as often as needed | idempotent redo; roll-forward |
//! | marker | a row or node, written in the decider's transaction, that proves its commit | commit record; transaction token |
//! | fence | insert the marker as *aborted*: if it goes in, nobody can commit any more | fencing; presumed abort made certain |
//! | in doubt | decided or not, and the decider cannot be asked right now | in doubt, blocked |
//! | needs intervention | decided, and a store refuses its part for good: an operator is needed | heuristic hazard |
//! | interactive | opened, given operations call by call, ended by its client's verdict; a lease ends it otherwise | conversational transaction |
//! | prepared | everybody who can has promised, and the verdict is awaited, over restarts too | prepared, held in doubt by its superior |
//! | settle | give a session its part late, once it is known who decides | dynamic commit tree |
//! | run again | the part that could not promise, repeated from the log when the verdict comes | – |
//! | Intent, Decision, Done | journal records: what is about to happen; it is so; every store has it | prepare, commit and end records |
//! | force | append and wait until it is durable | force-write |
//! | slip (`Decided`) | a value that proves that a decision is durable; only the journal mints it | capability, witness |
//! | job, chunk | a long piece of work with a name; one of its transactions, which happens once | batch job, checkpoint-restart; mini-batch |
//! | compensation | what undoes a chunk that is committed | compensating transaction |
//! | attempt | one run of a transaction; a re-run has a new number, a new gid and a new marker | retry, incarnation of a transaction |
//! | gid | the name that a prepared transaction has in PostgreSQL | global transaction id, XID |
//! | log id, incarnation | the log's random name; how often it was opened | coordinator id, epoch |
//! | Lsn, durable Lsn | a position in the log; the position up to which it is on disk | log sequence number |
//! | torn, corrupt | the unfinished end that a power cut may leave; anything else that does not check | torn write; media failure |
//! | poisoned | a flush failed: the log takes nothing more until a restart | fail-stop |
//! | verb, hand | what an operator tells a transaction; it hastens, decides or gives up, and never contradicts | heuristic decision, tamed |
//! | skip | give up, for good and on record, a part that its store refuses | heuristic hazard, accepted |
//! | claim | one lock that a transaction wants or holds: key and mode | lock request |
//! | victim | the transaction that gives way when some wait in a circle | deadlock victim |
//! | event, feed, follower | one step of a transaction, told; all of them in order; whoever hears them | server-sent event, change feed, subscriber |
//! | gap | events that a follower can not be told any more, and is told so | – |
//! | door, porch | the listener for applications; the listener for probes and metrics | data plane, admin plane |
//!
//! An action **fails**, a store **refuses**, a transaction **aborts**, a dropped future is **cancelled**.

pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
pub mod http;
pub mod journal;
pub mod lock;
pub mod metrics;
pub mod model;
pub mod node;
pub mod plan;
pub mod store;
pub mod txn;
