//! The loop of one type: as a whole where that is allowed, else namespace by namespace.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use meshsync_runtime::readiness::Gate;
use tokio_util::sync::CancellationToken;

use super::collection::Collection;
use super::common::{Common, Shared};
use super::intake::Sink;
use super::list::current_version;
use super::resume::is_known;
use super::scope::Scope;
use super::stream::{Watch, timeout};
use crate::apiserver::backoff::{Backoff, LONGEST, jitter};
use crate::apiserver::request::{RequestError, Source};
use crate::plan::WatchSpec;
use crate::snapshot::Extent;

/// How long it may take until rights to the whole of a type are noticed of which nobody tells.
const WHOLE_AGAIN_WITHIN: Duration = Duration::from_secs(300);

/// Runs until `stop`. `gate` opens when the first list is complete.
pub(super) async fn run(spec: WatchSpec, sink: Sink, shared: Arc<Shared>, gate: Option<Gate>, stop: CancellationToken) {
    let this = TypeLoop { common: Common::new(&spec, sink, shared, gate) };
    // It hears of lists that are wanted from here on.
    let whole = Collection::whole(&this.common);
    tokio::select! {
        () = stop.cancelled() => {}
        () = this.common.pass_on_wanted_lists() => {}
        () = this.forever(whole) => {}
    }
}

/// See the module.
struct TypeLoop {
    common: Common,
}

impl TypeLoop {
    async fn forever(&self, mut whole: Collection) {
        self.common.shared.progress.begin().await;
        whole.go_on_from_checkpoint(&self.common);
        loop {
            let refusal = whole.follow(&self.common).await;
            // Apart, since few types need it: it is large.
            let is_listed = Box::pin(self.in_namespaces(&refusal, whole.is_listed())).await;
            whole.set_listed(is_listed);
        }
    }

    /// Keeps the snapshot equal to what there is in some namespaces, until the type may be read as a whole. Gives whether
    /// there was a complete list.
    async fn in_namespaces(&self, refusal: &RequestError, is_listed: bool) -> bool {
        let Some(Scope::Namespaces(namespaces)) = &self.common.fallback else { return is_listed };
        self.log_narrowed(namespaces, refusal);
        self.common.standing.enter_namespaces(namespaces, refusal, is_listed);
        // Positions are of whole types.
        self.common.shared.progress.forget(self.common.sink.type_id);
        // What was watched before and is not wanted any more is listed by nobody.
        let unwanted = Extent::unwanted(&self.common.spec().namespaces);
        let removed = self.common.sink.table.begin_relist().finish_within(&unwanted);
        self.common.sink.queue.delete(self.common.sink.type_id, removed);
        let part = |namespace: &String| Collection::in_namespace(&self.common, namespace, namespaces.len());
        let mut parts: Vec<Collection> = namespaces.iter().map(part).collect();
        parts.iter_mut().for_each(|part| part.set_listed(is_listed));
        tokio::select! {
            _ = join_all(parts.iter_mut().map(|part| part.follow(&self.common))) => {}
            () = self.until_whole() => {}
        }
        self.log_whole();
        self.common.standing.leave_namespaces();
        parts.iter().any(Collection::is_listed)
    }

    /// Says it once for all types: as a rule, rights are missing for all.
    fn log_narrowed(&self, namespaces: &[String], refusal: &RequestError) {
        let (name, namespaces) = (&self.common.sink.name, namespaces.join(", "));
        if self.common.shared.is_narrowed.swap(true, Ordering::Relaxed) {
            tracing::debug!(r#type = name, namespaces, %refusal, "not to be read in all namespaces: reading it in some");
            return;
        }
        tracing::warn!(
            "this account may not read {name} in all namespaces, so it is read in {namespaces} only, and so is each type of which \
             that is true; /readyz and status.agent name these, and those that may not be read there either; \
             the server says: {refusal}"
        );
    }

    fn log_whole(&self) {
        let name = &self.common.sink.name;
        match self.common.shared.is_narrowed.swap(false, Ordering::Relaxed) {
            true => tracing::info!("this account may read {name} in all namespaces now, and maybe other types"),
            false => tracing::debug!(r#type = name, "to be read in all namespaces again"),
        }
    }

    /// Waits until the type may be listed and watched as a whole.
    async fn until_whole(&self) {
        let mut backoff = Backoff::up_to(WHOLE_AGAIN_WITHIN);
        let mut retry = self.common.shared.retry.clone();
        loop {
            let delay = backoff.failed(Instant::now(), None, jitter());
            let delay = if self.common.standing.is_refused() { delay.min(LONGEST) } else { delay };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                Ok(()) = retry.changed() => backoff.reset(),
            }
            if self.may_be_whole().await {
                return;
            }
        }
    }

    async fn may_be_whole(&self) -> bool {
        let (client, source) = (&self.common.shared.client, Source::of(self.common.spec()));
        let asked = async {
            let version = current_version(client, &source).await?;
            let version = if is_known(&version) { version.to_string() } else { String::new() };
            let timeout = timeout();
            Watch::answer(client, source.watch_request(&version, timeout)?, timeout).await
        };
        match asked.await {
            Ok(_open) => true,
            Err(error) => {
                tracing::debug!(r#type = self.common.sink.name, %error, "still not to be read in all namespaces");
                false
            }
        }
    }
}
