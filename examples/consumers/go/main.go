// Keeps the state of a cluster in memory, as MeshSync stores it in NATS JetStream, and prints every change.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := follow(ctx); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func follow(ctx context.Context) error {
	connection, err := nats.Connect(os.Getenv("NATS_URL"), nats.Token(os.Getenv("NATS_TOKEN")), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("connect to $NATS_URL: %w", err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		return err
	}
	// Each cluster has a stream of its own. This program follows the first one.
	stream, err := js.StreamNameBySubject(ctx, "meshsync.state.>")
	if err != nil {
		return fmt.Errorf("find the stream of a cluster: %w", err)
	}
	// An ordered consumer starts at the first message, and recovers by itself from gaps and reconnects.
	config := jetstream.OrderedConsumerConfig{FilterSubjects: []string{"meshsync.state.>"}}
	consumer, err := js.OrderedConsumer(ctx, stream, config)
	if err != nil {
		return fmt.Errorf("read the stream %s: %w", stream, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, messages.Stop)

	// The subject names an object; the message under it is its newest state.
	objects := map[string][]byte{}
	for {
		message, err := messages.Next()
		if err != nil {
			return err
		}
		event := message.Headers().Get("Meshsync-Event")
		if event == "DELETED" {
			delete(objects, message.Subject())
		} else {
			objects[message.Subject()] = message.Data()
		}
		fmt.Println(event, message.Subject())
		if metadata, err := message.Metadata(); err == nil && metadata.NumPending == 0 {
			fmt.Println("current:", len(objects), "objects")
		}
	}
}
