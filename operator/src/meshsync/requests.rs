//! Requests for objects whose type is known only at run time.

use http::Request;
use kube::Client;
use serde_json::Value;

use crate::error::Error;

/// Deletes in the foreground: the name becomes free only after everything that the object owns, such as its pods, is
/// deleted.
pub(super) async fn delete(client: &Client, path: &str, kind: &str) -> Result<(), Error> {
    let request = Request::delete(format!("{path}?propagationPolicy=Foreground"));
    let request = request.body(Vec::new()).map_err(Error::Request)?;
    client.request::<Value>(request).await.map(drop).map_err(Error::api(format!("delete {kind} at {path}")))
}

/// Reads an object; `None` if it does not exist.
pub(super) async fn get(client: &Client, path: &str, kind: &str) -> Result<Option<Value>, Error> {
    let request = Request::get(path).body(Vec::new()).map_err(Error::Request)?;
    match client.request::<Value>(request).await {
        Ok(live) => Ok(Some(live)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(Error::api(format!("read {kind} at {path}"))(error)),
    }
}
