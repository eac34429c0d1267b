//! JSON ⇄ PostgreSQL's types.
//!
//! *In*: parameters travel in text format (bytes in binary), so that the server's own input functions read them:
//! exact for every type that it has, extensions' included. What JSON alone can tell is checked before sending (a number
//! for a text, a fraction for an integer, a range); what only the server can tell it refuses naming the parameter.
//!
//! *Out*: the client offers results in binary format only, so each type is decoded here. A type that is not is refused
//! when the statement is prepared: before anything ran.

mod numeric;
mod params;
mod results;
mod time;

use tokio_postgres::types::{Kind, Type};

pub(super) use params::{Param, encode};
pub(super) use results::{Cell, Malformed, column_names, is_readable};

/// The type below any domains.
fn base(mut ty: &Type) -> &Type {
    while let Kind::Domain(inner) = ty.kind() {
        ty = inner;
    }
    ty
}

#[cfg(test)]
mod tests;
