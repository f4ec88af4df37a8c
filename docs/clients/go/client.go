// Embeds and scores two rows: go run . MODEL [HOST:PORT]
package main

//go:generate protoc -I ../../../proto --go_out=. --go_opt=module=client,Mhourglass/v1/autoencoder.proto=client/hourglass --go-grpc_out=. --go-grpc_opt=module=client,Mhourglass/v1/autoencoder.proto=client/hourglass hourglass/v1/autoencoder.proto

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "client/hourglass"
)

func main() {
	arguments := append(os.Args[1:], "127.0.0.1:8001")
	model, server := arguments[0], arguments[1]
	// TLS: credentials.NewClientTLSFromFile("ca.pem", "") in place of insecure.NewCredentials(). A token:
	// ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	connection := must(grpc.NewClient(server,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20))))
	defer connection.Close()
	client := pb.NewAutoencoderClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	info := must(client.GetModel(ctx, &pb.GetModelRequest{Model: model}))
	rows := zerosAndOnes(info.Model.RowShape)
	embedded := must(client.Embed(ctx, &pb.EmbedRequest{Model: model, Rows: &pb.EmbedRequest_Tensor{Tensor: rows}}))
	scored := must(client.Score(ctx, &pb.ScoreRequest{Model: model, Rows: &pb.ScoreRequest_Tensor{Tensor: rows}}))

	n, width := embedded.Embedding.Shape[0], embedded.Embedding.Shape[1]
	fmt.Println("embedding_space_id", embedded.Model.EmbeddingSpaceId)
	fmt.Println("embedding", n, width)
	embeddings, scores := floats(embedded.Embedding), floats(scored.Score)
	for row := range n {
		for _, number := range embeddings[row*width:][:min(3, width)] {
			fmt.Printf("%.4f ", number)
		}
		verdict := "normal"
		if scored.IsAnomaly.Data[row] != 0 {
			verdict = "anomaly"
		}
		fmt.Printf("score %.4f %s\n", scores[row], verdict)
	}
}

// A row of zeros, and a row of ones.
func zerosAndOnes(rowShape []int64) *pb.Tensor {
	size := int64(1)
	for _, n := range rowShape {
		size *= n
	}
	numbers := make([]float32, 2*size)
	for i := range size {
		numbers[size+i] = 1
	}
	data := must(binary.Append(nil, binary.LittleEndian, numbers))
	return &pb.Tensor{DataType: pb.DataType_DATA_TYPE_FLOAT32, Shape: append([]int64{2}, rowShape...), Data: data}
}

func floats(tensor *pb.Tensor) []float32 {
	numbers := make([]float32, len(tensor.Data)/4)
	must(binary.Decode(tensor.Data, binary.LittleEndian, numbers))
	return numbers
}

// The value, or the end of the program with what failed.
func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, reason(err))
		os.Exit(1)
	}
	return value
}

// A failed call's reason and field.
func reason(err error) string {
	failed := status.Convert(err)
	for _, detail := range failed.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return fmt.Sprintf("%s %s: %s", info.Reason, info.Metadata["field"], failed.Message())
		}
	}
	return err.Error()
}
