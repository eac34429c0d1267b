//! Nouns. Nothing here awaits.

pub mod commit;
pub mod ids;
pub mod job;
pub mod operator;
pub mod powers;
pub mod problem;
pub mod ranges;
pub mod record;
pub mod reference;
pub mod request;
pub mod state;
pub mod statement;
pub mod trace;
pub mod view;
pub mod wait;
